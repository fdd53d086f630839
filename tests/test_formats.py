"Bundles of a run: what is written, what is refused, and what stays as it was"

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from harkd.deploy import ExportMismatch, onnx_bytes
from harkd.distill import DistillConfig, run_distill
from harkd.formats import (
    LIMITS,
    FormatsConfig,
    _check_extremes,
    _result_rows,
    calibrate,
    check_bundle,
    export,
    format_rows,
    format_table,
    make_files,
    open_trained,
    out_of_fold,
    plot_pareto,
)
from harkd.metrics import calibration_error, fit_temperature
from harkd.quantize import bits_picture, check_decisions, compare_decisions, peak_activations
from harkd.runs import Run, load_model, read_json, save_model, write_json
from harkd.runtime import BadBundle, Bundle
from harkd.student import ConvStudent
from harkd.testing import check_bundle as check_bundle_suite
from harkd.tflite import litert_bytes
from tests.flip_bytes import export_all


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run of three folds on the synthetic body, without a teacher's losses"
    cfg = DistillConfig(
        'synth',
        student='conv_20k',
        epochs=30,
        teacher_epochs=1,
        lr=0.01,
        folds=3,
        seeds=1,
        jobs=1,
        loss='',
        mixup=0.0,
        label_smoothing=0.0,
    )
    return run_distill(cfg, tmp_path_factory.mktemp('formats') / 'run')


@pytest.fixture(scope='module')
def bundles(run):
    "Its bundles in full precision and in int8"
    return export(run.path), export(run.path, run.path.parent / 'int8', precision='int8')


def sealed_again(path):
    "The run with the hashes of its files as they are now"
    metrics = read_json(path / 'metrics.json')
    (path / 'metrics.json').unlink()
    Run(path).finish(metrics)
    return path


def copy_of(run, folder, **config):
    "The same run with another configuration"
    path = Path(shutil.copytree(run.path, folder))
    write_json(path / 'config.json', {**run.config, **config})
    return sealed_again(path)


def test_a_bundle_is_complete(run, bundles):
    full, small = bundles
    names = ['README.md', 'bundle.json', 'model.onnx', 'runtime.py']
    assert sorted(p.name for p in full.iterdir()) == names
    assert full == run / 'export/distilled-onnx-fp32'
    assert Bundle(full).about['temperature'] == pytest.approx(calibrate(run)['temperature'])
    assert Bundle(small).about['bytes'] < Bundle(full).about['bytes']
    card = (small / 'README.md').read_text()
    assert card.startswith('# conv_20k on synth (onnx, int8)') and 'same decisions' in card


def test_code_of_a_bundle_is_sealed_and_its_card_may_be_edited(bundles, tmp_path):
    folder = Path(shutil.copytree(bundles[0], tmp_path / 'bundle'))
    (folder / 'README.md').write_text('for the wrist, not for the ankle')
    Bundle(folder)
    with (folder / 'runtime.py').open('a') as f:
        f.write(' ')
    with pytest.raises(BadBundle, match='runtime.py was changed after it was exported'):
        Bundle(folder)


def test_the_name_of_a_bundle_says_its_fold(run):
    assert export(run.path, fold=1).name == 'distilled-onnx-fp32-fold1'


@pytest.mark.parametrize(
    'wrong,says',
    [
        (dict(precision='int4'), 'precision must be one of fp32, fp16, int8_dynamic, int8, got'),
        (dict(format='pt'), "format must be one of onnx, tflite, got 'pt'"),
        (dict(arm='teacher'), "arm must be one of distilled, control, got 'teacher'"),
        (dict(c=True), 'a C array is made of int8 TFLite'),
    ],
)
def test_a_wrong_choice_is_refused(run, wrong, says):
    with pytest.raises(ValueError, match=says):
        export(run.path, **wrong)


@pytest.mark.parametrize(
    'wrong,says',
    [
        (dict(precisions='fp32,int4'), "precisions must be of .*, got 'int4'"),
        (dict(formats='pt'), 'formats must be of onnx, tflite'),
        (dict(arm='teacher'), 'arm must be of distilled, control'),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        FormatsConfig(**wrong)


def test_what_does_not_agree_is_not_written_and_what_was_there_stays(
    run, bundles, tmp_path, monkeypatch
):
    small = Path(shutil.copytree(bundles[1], tmp_path / 'small'))
    before = (small / 'model.onnx').read_bytes()
    monkeypatch.setitem(LIMITS, 'int8', 1.01)
    for folder in (tmp_path / 'none', small):
        with pytest.raises(ExportMismatch, match='No file was written'):
            export(run.path, folder, precision='int8')
    assert not (tmp_path / 'none').exists()
    assert (small / 'model.onnx').read_bytes() == before
    assert not list(tmp_path.glob('.bundle*'))


def test_margins_decide_which_differences_count():
    level, sure = [0.02, 0.0], [2.0, 0.0]
    want = np.float32([level] * 3 + [sure] * 97)
    y = np.zeros(100, int)

    def verdict(got):
        found = compare_decisions(np.float32(got), want, y)
        return found['same'], found['same_sure'], found['lost']

    assert verdict([level[::-1]] * 3 + [sure] * 97) == pytest.approx((0.97, 1.0, 0.03))
    assert verdict([level] * 3 + [sure[::-1]] + [sure] * 96) == pytest.approx((0.99, 96 / 97, 0.01))
    broken = [[np.nan, 0.0]] * 2 + [level] + [sure] * 97
    assert verdict(broken) == pytest.approx((0.98, 1.0, 0.02))


def test_a_refusal_has_its_numbers_and_the_next_step(run, tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, 'int8', 1.01)
    with pytest.raises(ExportMismatch) as e:
        export(run.path, tmp_path / 'none', precision='int8')
    for part in (
        'decided with margin',
        'its accuracy is',
        'that of the model',
        'margins of',
        '--until-accepted',
        'quantisation-aware',
        'fp16',
    ):
        assert part in str(e.value)


def test_a_folder_of_other_files_is_not_replaced(run, tmp_path):
    (tmp_path / 'thesis.txt').write_text('years')
    with pytest.raises(FileExistsError, match='is not empty and not a bundle'):
        export(run.path, tmp_path)
    assert (tmp_path / 'thesis.txt').read_text() == 'years'


def test_a_bundle_is_replaced_whole(run, bundles, tmp_path):
    folder = Path(shutil.copytree(bundles[0], tmp_path / 'bundle'))
    (folder / 'old.txt').write_text('')
    export(run.path, folder, precision='fp16')
    assert Bundle(folder).about['precision'] == 'fp16' and not (folder / 'old.txt').exists()


def test_a_run_whose_weights_changed_is_noticed(run, bundles, tmp_path):
    full, small = bundles
    assert check_bundle(full, run.path)['same'] == 1.0
    assert check_bundle(small, run.path)['same'] >= 0.99
    changed = Path(shutil.copytree(run.path, tmp_path / 'changed'))
    folder = changed / 'fold0_seed0/distilled'
    model, about = load_model(folder)
    model.head.bias.data[0] += 500.0
    kept = {k: v for k, v in about.items() if k not in ('class', 'config')}
    save_model(model, folder, **kept)
    sealed_again(changed)
    with pytest.raises(ExportMismatch, match='differ by'):
        check_bundle(full, changed)
    with pytest.raises(ExportMismatch, match='decides as the model in'):
        check_bundle(small, changed)


def test_no_calibration_on_test_subjects(run, tmp_path):
    final = copy_of(run, tmp_path / 'final', final=True)
    with pytest.raises(ValueError, match='was evaluated on test subjects; calibrate on a dev'):
        calibrate(Run(final))
    with pytest.raises(ValueError, match='cannot be calibrated on them: name a development run'):
        export(final)


def test_a_run_on_test_subjects_needs_a_development_run(run, tmp_path):
    path = Path(shutil.copytree(run.path, tmp_path / 'final'))
    trained = open_trained(path)
    from harkd.formats import _calibration

    final = replace(trained.cfg, final=True)
    with pytest.raises(ValueError, match='cannot be calibrated on them: name a development run'):
        _calibration(run, final, '', 'distilled')
    assert _calibration(run, final, 'none', 'distilled') == {}
    assert _calibration(run, final, run.path, 'distilled') == calibrate(run)


def test_a_run_of_another_student_cannot_calibrate(run, tmp_path):
    other = copy_of(run, tmp_path / 'eight', student='conv_8k')
    with pytest.raises(ValueError, match="its student is 'conv_8k', here it is 'conv_20k'"):
        export(run.path, calibrate_on=other)


def test_without_calibration_the_card_says_so(run, tmp_path):
    folder = export(run.path, tmp_path / 'bundle', calibrate_on='none')
    assert Bundle(folder).about['temperature'] == 1.0
    assert 'not calibrated' in (folder / 'README.md').read_text()


def test_a_file_that_cannot_be_made_is_a_reason_and_the_others_are_made(run, monkeypatch):
    def broken(data):
        raise RuntimeError('no such type\nmore')

    monkeypatch.setattr('harkd.formats.onnx_fp16', broken)
    t = open_trained(run.path)
    made, refused = make_files(
        t.model, t.shape, t.calibration, t.x, t.y, ('onnx',), ('fp32', 'fp16')
    )
    assert [m.precision for m in made] == ['fp32']
    said = 'ONNX fp16 cannot be made or opened: no such type. No file was written'
    assert refused == {'onnx fp16': said}


def test_rows_of_all_formats(run):
    rows, refused = format_rows(FormatsConfig(str(run.path), formats='onnx'))
    assert len(rows) + len(refused) == 5 * 3 and pd.DataFrame(rows).fold.nunique() == 3
    table = format_table(rows)
    assert {'torch', 'onnx fp32', 'onnx int8'} <= set(table.format)
    assert len(plot_pareto(rows).lines) >= 4
    first = 5 - sum('1of3' in reason for reason in refused)
    one = pd.DataFrame(rows[:first]).set_index('format')
    assert one.accuracy['onnx fp32'] == one.accuracy['torch']
    assert one.bytes['onnx int8'] < one.bytes['onnx fp32']
    assert one.weight_bytes['onnx int8'] < 0.5 * one.weight_bytes['onnx fp32']
    assert peak_activations(onnx_bytes(open_trained(run.path).model, (100, 6), batch=1)) > 0


@pytest.mark.parametrize(
    'window_s, whole, says, arm',
    [(2.0, False, '_2s', 'control'), (1.0, False, '', 'distilled'), (2.0, True, '', 'distilled')],
)
def test_rows_of_formats_say_where_windows_were_of_two_seconds(
    run, monkeypatch, window_s, whole, says, arm
):
    monkeypatch.setattr('harkd.formats._speeds', lambda *a: {'torch': dict(p50_ms=1.0, p95_ms=2.0)})
    trained = open_trained(run.path)
    about = {**trained.about, 'window_s': window_s, 'whole': whole, 'protocol': 'loso'}
    trained = trained._replace(about=about, cfg=replace(trained.cfg, loss='kd'))
    (row,) = _result_rows(FormatsConfig('run', arm=arm), trained, 4, [])
    method = '' if arm == 'control' else 'kd'
    assert (row['protocol'], row['method'], row['seed']) == (f'loso{says}', method, 4)
    assert (row['format'], row['latency_ms'], row['latency_p95_ms']) == ('torch', 1.0, 2.0)
    assert (row['n'], row['gap'], row['same']) == (len(trained.ids), 0.0, 1.0)


class TableModel(torch.nn.Module):
    "Logits of window i are row i"

    def __init__(self, want):
        super().__init__()
        self.want = torch.tensor(want)

    def forward(self, x):
        return self.want[x[:, 0, 0].long()]


@pytest.mark.parametrize('worse, accepted', [(1, True), (2, False), (-2, True)])
def test_a_file_may_lose_half_a_point_and_gain_any(worse, accepted):
    "Of 200 windows decided without margin, one more wrong is half a point"
    want = np.float32([[0.0, 0.02]] * 200)
    y = np.r_[np.zeros(4, int), np.ones(196, int)]
    got = want.copy()
    changed = slice(4, 4 + worse) if worse > 0 else slice(0, -worse)
    got[changed] = got[changed, ::-1]
    x = torch.arange(200.0)[:, None, None]

    def runner(x):
        return got[x[:, 0, 0].astype(int)]

    if accepted:
        found = check_decisions(runner, TableModel(want), x, y, 'int8')
        assert found['lost'] == pytest.approx(worse / 200)
    else:
        with pytest.raises(ExportMismatch, match='points may be lost'):
            check_decisions(runner, TableModel(want), x, y, 'int8')


@pytest.mark.parametrize(
    'precision, margin, accepted',
    [
        ('int8', 0.02, True),
        ('int8_dynamic', 0.02, True),
        ('fp16', 0.02, False),
        ('int8', 2.0, False),
        ('fp16', 2.0, False),
    ],
)
def test_only_int8_may_decide_windows_without_margin_otherwise(precision, margin, accepted):
    "Of 200 windows ten are decided otherwise, half of them rightly; the others have a margin"
    want = np.float32([[0.0, 2.0]] * 200)
    want[:10, 1] = margin
    got = want.copy()
    got[:10] = got[:10, ::-1]
    y = np.r_[np.zeros(5, int), np.ones(195, int)]
    x = torch.arange(200.0)[:, None, None]

    def runner(x):
        return got[x[:, 0, 0].astype(int)]

    if accepted:
        found = check_decisions(runner, TableModel(want), x, y, precision)
        assert (found['same'], found['same_sure']) == (0.95, 1.0)
    else:
        of_sure = ', and in 95.00% of the 200 that' if precision == 'int8' else ' [(]9'
        with pytest.raises(ExportMismatch, match=f'in 95.00% of 200 windows{of_sure}'):
            check_decisions(runner, TableModel(want), x, y, precision)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_one_logit_that_is_no_number_refuses_a_file(bad):
    logits = np.zeros((5, 3))
    _check_extremes(lambda x: logits, torch.zeros(5, 4, 2), 'file')
    logits[2, 1] = bad
    with pytest.raises(ExportMismatch, match='gives no number on extreme windows'):
        _check_extremes(lambda x: logits, torch.zeros(5, 4, 2), 'file')


@pytest.mark.parametrize(
    'error, says',
    [(RuntimeError('bad node\ntrace'), 'bad node'), (AssertionError(), 'AssertionError')],
)
def test_a_file_that_fails_on_extreme_windows_says_why(error, says):
    def fail(x):
        raise error

    with pytest.raises(ExportMismatch, match=f'file fails when it runs: {says}. No file'):
        _check_extremes(fail, torch.zeros(5, 4, 2), 'file')


@pytest.fixture
def out_of_fold_logits(monkeypatch):
    "Two subjects: the first's logits are ten times as large as they should be"
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=400)
    logits = rng.normal(size=(400, 4)) + 2 * np.eye(4)[y]
    logits[:200] *= 10
    subjects = np.repeat(['p1', 'p2'], 200)
    monkeypatch.setattr('harkd.formats.out_of_fold', lambda run, arm: (logits, y, subjects))
    return logits, y, subjects


def test_one_window_in_twenty_is_below_the_threshold(out_of_fold_logits):
    logits, _, _ = out_of_fold_logits
    found = calibrate(None)
    p = torch.tensor(logits / found['temperature']).softmax(1).numpy().max(1)
    assert (p < found['threshold']).mean() == pytest.approx(0.05, abs=0.003)
    assert found['windows'] == 400


def test_the_calibration_error_is_that_of_subjects_who_were_held_apart(out_of_fold_logits):
    "Each at the other's temperature: worse than at one that saw both"
    logits, y, _ = out_of_fold_logits
    crossed = np.concatenate(
        [
            torch.tensor(logits[now] / fit_temperature(logits[other], y[other])).softmax(1).numpy()
            for now, other in ((slice(0, 200), slice(200, 400)), (slice(200, 400), slice(0, 200)))
        ]
    )
    found = calibrate(None)
    assert found['ece_after'] == pytest.approx(calibration_error(crossed, y))
    both = torch.tensor(logits / found['temperature']).softmax(1).numpy()
    assert found['ece_after'] > calibration_error(both, y)
    plain = torch.tensor(logits).softmax(1).numpy()
    assert found['ece_before'] == pytest.approx(calibration_error(plain, y))


@pytest.mark.parametrize('which', [0, 1])
def test_a_bundle_of_the_run_passes_the_public_checks(run, bundles, which):
    check_bundle_suite(bundles[which], run.path)


def test_bundles_of_all_formats_pass_the_public_checks(run, tmp_path):
    "One conversion by TensorFlow; each file is opened, damaged and streamed into"
    pytest.importorskip('ai_edge_litert')
    wanted = [('onnx', 'fp16'), ('tflite', 'fp32'), ('tflite', 'fp16'), ('tflite', 'int8')]
    for folder in export_all(run.path, tmp_path, wanted):
        wanted.remove((Bundle(folder).about['format'], Bundle(folder).about['precision']))
        check_bundle_suite(folder)
    assert not wanted


def test_predictions_out_of_fold_keep_their_subjects(run):
    logits, labels, subjects = out_of_fold(run)
    assert len(logits) == len(labels) == len(subjects) > 30
    assert len(set(subjects)) > 3 and (logits.argmax(1) == labels).mean() > 0.1


def test_filled_marks_are_onnx_hollow_ones_tflite_and_stars_int8():
    kinds = ('onnx fp32', 'onnx int8', 'tflite fp32', 'tflite int8')
    rows = [
        dict(model='m', format=k, bytes=1000 * i, accuracy=i / 10) for i, k in enumerate(kinds, 1)
    ]
    drawn = plot_pareto(rows).lines[:4]
    assert [line.get_marker() for line in drawn] == ['o', '*', 'o', '*']
    filled = [line.get_markerfacecolor() != 'none' for line in drawn]
    assert filled == [True, True, False, False]
    places = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in drawn]
    assert places == [(i, pytest.approx(10 * i)) for i in range(1, 5)]


@pytest.mark.parametrize(
    'error, says',
    [
        (None, ''),
        (RuntimeError('no kernel for this\nand a trace'), 'no kernel for this'),
        (AssertionError(), 'AssertionError'),
    ],
)
def test_litert_torch_converts_or_its_reason_is_named(monkeypatch, error, says):
    "Whether or not that package is there"

    def convert(model, samples):
        assert not model.training and samples[0].shape == (1, 50, 3)
        if error:
            raise error
        return SimpleNamespace(export=lambda path: Path(path).write_bytes(b'file'))

    net = ConvStudent(channels=3, classes=2).train()
    monkeypatch.setitem(sys.modules, 'litert_torch', SimpleNamespace(convert=convert))
    if not error:
        assert litert_bytes(net, (50, 3)) == b'file'
        return
    with pytest.raises(ExportMismatch, match=f'express ConvStudent: {says}. No file was written$'):
        litert_bytes(net, (50, 3))
    monkeypatch.setitem(sys.modules, 'litert_torch', None)
    with pytest.raises(ImportError, match='needs litert-torch: pip install litert-torch'):
        litert_bytes(net, (50, 3))


def test_accuracy_by_bits_is_that_of_the_rounded_model():
    "Where the labels are the model's own decisions it is their share that stays; else the rest"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2)).eval()
    x = torch.randn(50, 4, 2)
    decided = model(x).argmax(1).numpy()
    for y, shares in ((decided, lambda kept: kept), (1 - decided, lambda kept: 100 - kept)):
        picture = bits_picture(model, x, y, bits=3)
        same, right, chosen = picture.panels[0].traces
        assert same.x.tolist() == right.x.tolist() == list(range(2, 13))
        assert same.y[0] < 100 and same.y[-1] == 100  # two bits are too few, twelve enough
        np.testing.assert_allclose(right.y, shares(same.y), atol=1e-4)
        assert chosen.x.tolist() == [3] and f'{same.y[1]:.1f} % of the decisions' in picture.title


@pytest.mark.parametrize('by_channel', [True, False])
def test_a_change_below_half_the_margin_keeps_the_decision(by_channel):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3)).eval()
    x = torch.randn(40, 4, 2)
    picture = bits_picture(model, x, np.zeros(40, int), 3, by_channel)
    change, safe = (trace.y for trace in picture.panels[1].traces)
    top = model(x).detach().sort(1).values
    np.testing.assert_allclose(safe, ((top[:, 2] - top[:, 1]) / 2).sort().values, rtol=1e-5)
    kept = float(picture.title.split(':')[1].split('%')[0])
    assert 100 * (change < safe).mean() <= kept < 100
    assert f'one scale a {"channel" if by_channel else "layer"}' in picture.title
