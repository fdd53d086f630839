"Losses of pretraining against published values; laws of the corpus and its batches"

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harkd.data import DATASETS, Dataset, Recording, Span, Stream
from harkd.encoder import WearableEncoder
from harkd.preprocess import cut_windows
from harkd.pretrain import (
    OFFICIAL_TEST_SUBJECTS,
    CorpusLoader,
    PretrainConfig,
    PretrainLoss,
    PretrainModel,
    UnitStore,
    gather_corpus,
    load_encoder,
    load_store,
    make_store,
    masked_patch_loss,
    patch_contrast_loss,
    reconstruction_picture,
    save_encoder,
    save_store,
)
from harkd.probe import ProbeConfig, train_scratch
from harkd.runs import DamagedFile
from harkd.synth import synth_dataset
from tests.conftest import data

GOLDEN = {
    name: torch.tensor(value)
    for name, value in np.load(Path(__file__).parent / 'golden' / 'losses.npz').items()
}


def close(ours, golden):
    return abs(float(ours) - float(golden)) <= 1e-6 + 1e-5 * abs(float(golden))


def test_masked_reconstruction_equals_the_reference():
    names = ('in_mae_pred', 'in_mae_tgt', 'in_mae_att', 'in_mae_mask', 'in_mae_ch')
    ours = masked_patch_loss(*(GOLDEN[name] for name in names))
    assert close(ours, GOLDEN['out_TSFM_MAE'])


def test_patch_contrast_equals_the_reference():
    names = ('in_f1', 'in_f2', 'in_mae_att', 'in_mae_ch')
    ours = patch_contrast_loss(*(GOLDEN[name] for name in names), temperature=0.2)
    assert close(ours, GOLDEN['out_TSFM_PatchInfoNCE_t.2'])


@pytest.fixture(scope='module')
def store():
    return make_store(synth_dataset(3, 2))


def still(seconds, start=0.0, channels=('acc_x', 'acc_y', 'acc_z')):
    time = start + np.arange(round(50 * seconds)) / 50
    return Stream(np.ones((len(time), len(channels))), time, channels, ('m/s²',), 'wrist')


def of_streams(*recordings):
    card = replace(synth_dataset(1, 1).card, name='toy', fs=50.0)
    made = [Recording(f'r{k}', 's1', 'toy', streams, ()) for k, streams in enumerate(recordings)]
    return Dataset(card, made, 'toy')


def test_recordings_of_two_seconds_in_all_streams_are_stored():
    both = {'a': still(9.0), 'b': still(2.0, 1.0)}
    short = {'a': still(9.0), 'b': still(1.98, 1.0)}
    assert make_store(of_streams(short, both, both)).count.tolist() == [100, 100]


@pytest.mark.parametrize(
    'recordings, chosen, says',
    [
        ((), dict(), 'toy: no recordings$'),
        (({'a': still(9)},), dict(subjects=('s2', 's3')), 'toy: no recordings of s2, s3$'),
        (({'a': still(9, 0, ('temperature',))},), dict(), 'no stream has an accelerometer or a g'),
        (({'a': still(9), 'b': still(9, 8.5)},), dict(), 'two seconds in which all of a, b were'),
        (({'a': still(9), 'b': still(9, 7.1)},), dict(), 'two seconds in which all of a, b were'),
    ],
)
def test_a_store_without_recordings_is_refused_with_the_reason(recordings, chosen, says):
    with pytest.raises(ValueError, match=says):
        make_store(of_streams(*recordings), **chosen)


def test_a_window_is_a_stretch_of_its_recording(store):
    recording, start = torch.tensor([1, 3]), torch.tensor([5, 9])
    cut = store.cut(recording, start, 20)
    for k in range(2):
        first = int(store.offset[recording[k]] + start[k])
        stretch = store.values[first : first + 20, 0].float()
        steps = torch.tensor([1 / 200] * 3 + [1 / 800] * 3)
        assert torch.equal(cut[k, 0], stretch * steps)


def test_a_rotation_is_shared_by_both_views_unless_asked_otherwise(store):
    still = PretrainConfig(gain=0.0, noise=0.0, shift_s=0.0, drop_gyro=0.0)
    shared = CorpusLoader((store,), still, 6).train(0, 0)
    assert torch.allclose(shared.first.x, shared.second.x)
    apart = CorpusLoader((store,), replace(still, independent=True), 6).train(0, 0)
    assert not torch.allclose(apart.first.x, apart.second.x, atol=0.5)
    norms = [v.x[..., :3].norm(dim=-1) for v in (apart.first, apart.second)]
    assert torch.allclose(*norms, atol=1e-3)


def test_data_sets_are_drawn_by_hours_to_the_power_of_the_temperature(store):
    big = replace(store, count=store.count.repeat(4), values=store.values.repeat(4, 1, 1))
    even = CorpusLoader((store, big), PretrainConfig(temperature=0.0)).shares
    sized = CorpusLoader((store, big), PretrainConfig(temperature=1.0)).shares
    assert np.allclose(even, [0.5, 0.5])
    assert np.allclose(sized, [0.2, 0.8])


@pytest.mark.parametrize('task', ['reconstruct', 'contrast'])
def test_a_task_without_weight_trains_nothing(store, task):
    cfg = replace(PretrainConfig(), **{task: 0.0})
    torch.manual_seed(0)
    model = PretrainModel(WearableEncoder(dim=8))
    PretrainLoss(cfg)(model, CorpusLoader((store,), cfg, 4).train(0, 0))['loss'].backward()
    part = model.decoder if task == 'reconstruct' else model.projection
    other = model.projection if task == 'reconstruct' else model.decoder
    assert all(p.grad is None or not p.grad.any() for p in part.parameters())
    assert any(p.grad is not None and p.grad.any() for p in other.parameters())


def test_hidden_frames_do_not_reach_the_encoder(store):
    batch = CorpusLoader((store,), PretrainConfig(), 3).train(0, 0).first
    torch.manual_seed(0)
    encoder = WearableEncoder(dim=8).eval()
    features, real = encoder.prepare(batch)
    masked = torch.zeros(features.shape[:3], dtype=torch.bool)
    masked[:, :, 2] = True
    changed = features.clone()
    changed[:, :, 2] += 5.0
    with torch.no_grad():
        a = encoder.frames(features, real, masked)
        b = encoder.frames(changed, real, masked)
        c = encoder.frames(changed, real)
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_a_picture_shows_what_was_given_what_was_filled_in_and_what_was_there(store):
    batch = CorpusLoader((store,), PretrainConfig(), 3).train(0, 0).first
    torch.manual_seed(0)
    models = {5: PretrainModel(WearableEncoder(dim=8)).eval()}
    picture = reconstruction_picture(models, batch, window=1, steps=5)
    given, filled, true = (panel.traces[0] for panel in picture.panels)
    z, _ = models[5].encoder.prepare(batch)
    bands = z[1, 0, :, 12:62].reshape(-1, 10, 5)[..., 4].T  # log power over bands and frames
    np.testing.assert_array_equal(true.z, bands)
    np.testing.assert_array_equal(true.x, 0.25 * np.arange(bands.shape[1]))
    assert given.y[0] == '0.5 Hz' and given.y[-1] == '12.0 Hz' and len(set(true.y)) == 10
    hidden = np.isnan(given.z).all(0)
    assert 0 < hidden.sum() < len(hidden)
    for shown in (given, filled):
        np.testing.assert_array_equal(np.asarray(shown.z)[:, ~hidden], bands[:, ~hidden])
    assert not np.isclose(np.asarray(filled.z)[:, hidden], bands[:, hidden]).all()
    mean = z[1, 0, ~hidden].mean(0)
    wrong = (mean - z[1, 0, hidden])[z[1, 0, hidden] != 0]
    assert picture.title.startswith('After 5 steps: error of hidden frames ')
    assert picture.title.endswith(f', of the mean of the others {wrong.square().mean():.2f}')
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=r'share must be in \(0,1\), got'):
            reconstruction_picture(models, batch, share=share, steps=5)


def test_every_flipped_header_byte_of_a_store_is_noticed(store, tmp_path):
    path = save_store(store, tmp_path)
    whole = path.read_bytes()
    for at in range(60):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            again = load_store(tmp_path, store.name, mapped=False)
        except DamagedFile as error:
            assert store.name in str(error)
        else:
            assert torch.equal(again.values, store.values)


def flip_bytes(path, load, step=1):
    "Bytes of a file whose flip is loaded without an error"
    whole, silent = path.read_bytes(), []
    for k in range(0, len(whole), step):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ (1 << k % 8)]) + whole[k + 1 :])
        try:
            load()
            silent.append(k)
        except DamagedFile:
            pass
    path.write_bytes(whole)
    return silent


def test_every_flipped_byte_of_a_description_is_noticed(store, tmp_path):
    save_encoder(WearableEncoder(8, (1,)), tmp_path / 'e', says='a made-up encoder')
    description = tmp_path / 'e' / 'encoder.json'
    assert flip_bytes(description, lambda: load_encoder(tmp_path / 'e')) == []
    save_store(store, tmp_path)
    description = tmp_path / f'{store.name}.json'
    assert flip_bytes(description, lambda: load_store(tmp_path, store.name), 11) == []


def test_the_encoder_that_comes_with_harkd_is_sealed():
    _, about = load_encoder('harkd-base')
    assert len(about['seal']) == len(about['weights_sha256']) == 64


def test_weights_of_another_encoder_are_refused(tmp_path):
    for k in (0, 1):
        torch.manual_seed(k)
        save_encoder(WearableEncoder(8, (1,)), tmp_path / str(k))
    (tmp_path / '0/encoder.safetensors').replace(tmp_path / '1/encoder.safetensors')
    with pytest.raises(DamagedFile, match='holds other weights'):
        load_encoder(tmp_path / '1')


def test_official_test_subjects_are_never_gathered(tmp_path):
    data('utd_mhad')
    (store,) = gather_corpus(PretrainConfig('utd_mhad'), tmp_path)
    assert set(store.subjects).isdisjoint(OFFICIAL_TEST_SUBJECTS['utd_mhad'])
    assert set(store.subjects) == {'s1', 's3', 's5', 's7'}


def still_recording(**streams):
    "Each sensor shows one value for four seconds"
    made = {}
    for name, (values, start) in streams.items():
        channels = tuple(f'acc_{a}' for a in 'xyz'[: len(values)])
        rows = np.tile(np.float64(values), (200, 1))
        made[name] = Stream(rows, start + np.arange(200) / 50, channels, ('m/s²',))
    return Dataset(
        DATASETS['synth'], [Recording('r', 's1', 'synth', made, (Span('a', 1.0, 2.0),))], 'h'
    )


def test_values_beyond_sixteen_bits_stay_at_the_largest_and_the_smallest():
    "At 1/200 m/s² a step, thus beyond ±164 m/s²"
    store = make_store(still_recording(imu=([1000.0, -1000.0, 9.8], 0.0)))
    assert store.values.dtype == torch.int16
    assert store.values[10, 0].tolist() == [32767, -32768, 1960, 0, 0, 0]


def test_streams_of_a_store_begin_and_end_together():
    "The second begins a second later; labels are counted from there"
    store = make_store(still_recording(wrist=([1.0], 0.0), foot=([2.0], 0.5)))
    assert store.values[0, :, 0].tolist() == [200, 400]
    assert store.units == ('wrist', 'foot') and abs(len(store.values) - 175) <= 1
    assert store.spans.tolist() == [[25, 75, 0]]


def test_a_student_from_scratch_trains_on_the_labelled_windows_for_so_many_steps(monkeypatch):
    windows = cut_windows(synth_dataset(3, 4), ('imu',))
    told = {}

    def train(student, loader, loss, cfg):
        told.update(loader=loader, cfg=cfg)

    monkeypatch.setattr('harkd.probe.train', train)
    held = (windows.table.subject == 's3').to_numpy()
    ids = np.flatnonzero(~held)[:34]
    guess = train_scratch(ProbeConfig(scratch_steps=7), windows, 'imu', ids, held, 5)
    loader, cfg = told['loader'], told['cfg']
    assert loader.split.train.tolist() == ids.tolist() and len(guess) == held.sum()
    assert set(loader.norm.fitted_on) <= {'s1', 's2'}
    assert [len(loader.ids(0, step)) for step in range(loader.steps)] == [32, 2]
    assert (cfg.epochs, cfg.seed) == (3, 5)  # of two steps each


def drawn_windows(supervise, shift=0):
    "8000 windows of 20 samples: two recordings, a class of 100 samples and one of 1900"
    count = torch.tensor([1000, 3000])
    spans = torch.tensor([[900, 1000, 0], [1500, 3400, 1]])
    values, present = torch.zeros(4000, 1, 6, dtype=torch.int16), torch.ones(1, 2, dtype=bool)
    classes = ('rare', 'usual')
    store = UnitStore('toy', values, present, count, ('a', 'b'), ('x',), 50.0, spans, classes)
    loader = CorpusLoader((store,), PretrainConfig(supervise=supervise))
    generator = torch.Generator().manual_seed(0)
    recording, start = loader._draw_windows(store, 8000, 20, shift, generator)
    assert start.min() >= 0 and (start + 20 + shift <= count[recording]).all()
    return recording, start, store.offset[recording] + start + 10


def test_windows_are_drawn_by_time():
    recording, start, _ = drawn_windows(0.0)
    assert (recording == 1).float().mean() == pytest.approx(2981 / 3962, abs=0.02)
    for k, room in enumerate((981, 2981)):
        at = start[recording == k].float()
        assert (at.min(), at.max()) == (pytest.approx(0, abs=10), pytest.approx(room - 1, abs=10))
        assert at.mean() == pytest.approx((room - 1) / 2, rel=0.05)


@pytest.mark.parametrize('shift', [0, 15])
def test_half_of_the_windows_are_drawn_by_class_where_labels_teach(shift):
    _, _, middle = drawn_windows(1.0, shift)
    rare, usual = (middle[:4000][(middle[:4000] < 1000) == is_rare] for is_rare in (True, False))
    assert len(rare) == pytest.approx(2000, abs=150)  # as often as the other
    latest = 990 - shift  # middle of the last window that fits into the recording
    assert (rare.min(), rare.max()) == (900, latest)
    inside = torch.arange(900, 1000).clamp(max=latest).double().mean()
    assert rare.double().mean() == pytest.approx(inside, abs=3)
    assert usual.min() == pytest.approx(1500, abs=9) and usual.max() == pytest.approx(3399, abs=9)
    assert usual.double().mean() == pytest.approx(2450, abs=50)
    by_time = middle[4000:]
    assert (by_time < 1000).double().mean() == pytest.approx(981 / 3962, abs=0.03)


@pytest.mark.parametrize('n', [2, 3])
@pytest.mark.parametrize('coin, all_of_them', [(0.49, False), (0.5, True)])
def test_one_unit_is_drawn_or_all_of_them_each_half_of_the_time(store, coin, all_of_them, n):
    several = replace(store, units=('wrist', 'hip', 'ankle')[:n])
    loader = CorpusLoader((several,), PretrainConfig())
    found = loader._draw_units(several, lambda n: torch.full((n,), coin), torch.Generator())
    assert len(found) == (n if all_of_them else 1) and set(found.tolist()) <= set(range(n))


def test_of_a_single_unit_nothing_is_drawn(store):
    "So that what is drawn afterwards does not depend on it"
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    loader = CorpusLoader((store,), PretrainConfig())
    found = loader._draw_units(store, lambda n: torch.rand(n, generator=generator), generator)
    assert found.tolist() == [0] and torch.equal(generator.get_state(), before)
