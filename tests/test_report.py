"Chapter 07i: tables and figures from result files alone"

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harkd.data import COLORS
from harkd.experiment import DataConfig
from harkd.report import (
    Chart,
    ReportConfig,
    _clear_probes,
    arms_chart,
    arms_table,
    confusion_chart,
    curves_chart,
    draw,
    goals_table,
    interactive,
    keep_history,
    ladder_chart,
    latex_table,
    make_report,
    markdown_table,
    pareto_chart,
    points_ahead,
    probe_rows,
    read_results,
    report_parts,
    subjects_chart,
    write_report,
)
from harkd.runs import Run, results_dir, write_bytes, write_results
from harkd.significance import read_predictions


def row(arm, seed, accuracy, **columns):
    return {
        'experiment': 'toy',
        'dataset': 'toy',
        'protocol': 'official',
        'part': 'test',
        'model': 'conv',
        'arm': arm,
        'modality': 'imu',
        'seed': seed,
        'n': 100,
        'accuracy': accuracy + seed / 100,
        'macro_f1': accuracy,
        'params': 7,
        'bytes': 2000,
        'macs': 3000,
        'latency_ms': 0.5,
        'config_hash': 'c',
        'data_hash': 'd',
        **columns,
    }


def toy_rows(**columns):
    arms = (('control', 0.8), ('distilled', 0.85))
    return [row(arm, seed, accuracy, **columns) for arm, accuracy in arms for seed in range(3)]


def blank_a_hash(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_hash_of_digits_stays_a_hash():
    write_results('toy', toy_rows(config_hash='019405605155'))
    assert set(read_results('toy').config_hash) == {'019405605155'}


@pytest.mark.parametrize('blank, column', [(',c,,', 'data_hash'), (',,d,', 'config_hash')])
def test_rows_without_a_hash_are_refused(blank, column):
    write_results('toy', toy_rows())
    assert len(read_results('toy')) == 6
    blank_a_hash(results_dir() / 'toy.csv', ',c,d,', blank)
    with pytest.raises(ValueError, match=f'without {column} cannot be traced'):
        read_results('toy')


def test_a_missing_table_is_named():
    with pytest.raises(FileNotFoundError, match="no results 'nothing'"):
        read_results('nothing')


def test_the_table_of_arms_by_hand():
    write_results('toy', toy_rows())
    table = arms_table(read_results('toy'))
    assert table['accuracy %'].tolist() == ['81.0 ± 2.5', '86.0 ± 2.5']
    lines = markdown_table(table).splitlines()
    assert (
        lines[0]
        == '|  | model | input | accuracy % | macro-F1 % | seeds | parameters | kB | MACs |'
    )
    assert len(lines) == 4
    assert lines[2].endswith('| 81.0 ± 2.5 | 80.0 ± 0.0 | 3 | 7 | 2.0 | 0.00 M |')


def test_a_named_index_becomes_columns():
    table = pd.DataFrame({'a': [1]}, index=pd.Index(['x'], name='who'))
    assert markdown_table(table) == '| who | a |\n| --- | --- |\n| x | 1 |'
    assert markdown_table(table.rename_axis(None)) == '| a |\n| --- |\n| 1 |'


def test_latex_is_escaped_and_balanced():
    table = pd.DataFrame({'accuracy %': ['93.1 ± 2.3'], 'model': ['conv_80k'], 'note': [None]})
    text = latex_table(table, 'Made up', 'tab:a')
    assert 'accuracy \\% & model & note \\\\\n\\midrule' in text
    assert '93.1 $\\pm$ 2.3 & conv\\_80k &  \\\\\n\\bottomrule' in text
    assert text.count('{') == text.count('}')
    assert '\\caption{Made up}\n\\label{tab:a}\n' in text and 'caption' not in latex_table(table)


def chart(kind):
    values = [('control', 1.0, 90.0, 89.0, 91.0), ('distilled', 1.0, 91.0, 90.0, 92.0)]
    columns = ['series', 'x', 'y', 'low', 'high']
    return Chart(kind, 'Made up', 'x', 'y', pd.DataFrame(values, columns=columns), log_x=True)


@pytest.mark.parametrize('kind', ['bars', 'lines', 'dots'])
def test_both_renderers_show_the_same_numbers(kind):
    ax, figure = draw(chart(kind)), interactive(chart(kind))
    if kind == 'bars':
        drawn = [p.get_height() for p in ax.patches]
    else:
        drawn = [float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() != '_']
    assert drawn == [90.0, 91.0]
    assert [list(trace.y) for trace in figure.data] == [[90.0], [91.0]]
    assert figure.data[1].marker.color == COLORS['student']
    assert ax.get_xscale() == 'log' and figure.layout.xaxis.type == 'log'


def test_a_heat_map_shows_its_cells():
    cells = pd.DataFrame([[3, 0], [1, 2]], ['a', 'b'], ['a', 'b'])
    heat = Chart('heat', 'Made up', 'predicted', 'true', cells)
    assert [t.get_text() for t in draw(heat).texts] == ['3', '1', '2']  # zero is left blank
    assert np.array_equal(interactive(heat).data[0].z, cells)


def test_kept_curves_are_means_over_seeds(tmp_path):
    run = Run(tmp_path / 'run', DataConfig('synth'), 'd')
    for seed, loss in enumerate((2.0, 4.0)):
        text = f'epoch,loss\n1,{loss}\n2,{loss / 2}\n'
        write_bytes(run / f'fold0_seed{seed}' / 'control' / 'history.csv', text.encode())
    run.finish({'rows': [dict(config_hash='c', data_hash='d')]})
    path = keep_history(run.path, 'toy')
    series = curves_chart('toy').series
    assert series.y.tolist() == [3.0, 1.5]
    assert series.high[0] - series.y[0] == pytest.approx(2**0.5, abs=1e-4)
    blank_a_hash(Path(path), ',c,d', ',,d')
    with pytest.raises(ValueError, match='is refused'):
        curves_chart('toy')


def test_charts_show_the_numbers_of_the_committed_tables(monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')
    table = arms_table(read_results('utd_100k'))
    arms = arms_chart(['utd_100k', 'utd_25k'], 'With and without a teacher')
    assert [f'{y:.1f}' for y in arms.series.y[:3]] == [
        text.split(' ')[0] for text in table['accuracy %']
    ]
    ladder = ladder_chart('utd_ladder_100k').series.series
    assert (ladder == 'test subjects were trained on').sum() == 3
    formats = read_results('utd_formats').dropna(subset='weight_bytes')
    assert len(pareto_chart('utd_formats').series) == formats.groupby(['model', 'format']).ngroups
    assert set(subjects_chart('utd_100k').series.x) == {'s2', 's4', 's6', 's8'}
    by_arm = curves_chart('utd_100k').series.groupby('series')
    assert by_arm.x.max().unique().tolist() == [90.0]
    assert (by_arm.y.last() < by_arm.y.first()).all()


def test_the_confusions_are_the_kept_predictions(monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')
    predictions = read_predictions('utd_100k').query("arm == 'distilled'")
    counts = confusion_chart('utd_100k').series
    assert counts.to_numpy().sum() == len(predictions)
    accuracy = (predictions.y == predictions.pred).mean()
    assert np.trace(counts) / len(predictions) == pytest.approx(accuracy)


def goal(figures):
    return goals_table([('made up', 90.0, 'none', figures)]).iloc[0]


def test_a_goal_is_reached_by_the_mean_over_seeds():
    assert goal(lambda: np.array([89.0, 91.0, 93.0]))[['measured', 'reached']].tolist() == [
        '91.0 ± 5.0',
        'yes',
    ]
    assert goal(lambda: 85.5)[['measured', 'reached']].tolist() == ['85.5', 'no, 4.5 short']


def test_a_goal_without_a_figure_says_so():
    assert goal(partial(read_results, 'nothing'))[['measured', 'reached']].tolist() == [
        'not run',
        '',
    ]
    assert goal(lambda: np.array([]))[['measured', 'reached']].tolist() == ['no figure', '']


def test_a_refused_seed_reaches_no_goal():
    row = goal(lambda: np.array([91.0, np.nan, 93.0]))
    assert row.measured.startswith('92.0 ')
    assert (row.seeds, row.reached) == ('2 of 3', 'no, 1 refused')


def test_the_gain_in_the_goals_is_that_of_the_table(monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')
    means = read_results('utd_100k_ensemble').groupby('arm').accuracy.mean()
    gain = (means.distilled - means.control) * 100
    measured = goals_table().measured['gain by the teachers, UTD-MHAD (points)']
    assert measured.split(' ')[0] == f'{gain:.1f}'


def curves(**lead):
    "k-curves of two subjects: every control at 0.5, the encoder ahead by `lead` points at each k"
    arms = ('random', 'bands', 'minirocket', 'scratch')
    rows = [
        dict(row(arm, 0, 0.5), method=f'k={k}', fold=who, macro_f1=0.5)
        for arm in arms
        for k in (1, 2, 4)
        for who in ('s1', 's2')
    ]
    encoder = [
        dict(
            row('pretrained', 0, 0.5), method=k.replace('k', 'k='), fold=who, macro_f1=0.5 + p / 100
        )
        for k, p in lead.items()
        for who in ('s1', 's2')
    ]
    return rows, encoder


@pytest.mark.parametrize(
    'last, sets', [(0.06, 2), (0.04, 1), (-1, 1)], ids=['ahead', 'a tie', 'behind']
)
def test_an_encoder_is_ahead_of_a_control_by_more_than_a_tie(last, sets):
    controls, encoder = curves(k1=1, k2=2, k4=last)
    write_results('probe_first', controls + encoder)
    write_results('probe_second', controls + curves(k1=1, k2=1, k4=1)[1])
    assert _clear_probes(('first', 'second')) == sets
    lead, low = points_ahead(probe_rows('first'), 4)
    assert (lead, low) == pytest.approx((last, last))


def test_later_encoders_are_compared_with_the_controls_of_the_first_table():
    controls, encoder = curves(k1=1, k2=1, k4=1)
    write_results('probe_first', controls + encoder)
    write_results('probe_first_long', curves(k1=3, k2=-3, k4=1)[1])
    leads = [points_ahead(probe_rows('first', 'long'), k)[0] for k in (1, 2, 4)]
    assert leads == pytest.approx([3, -3, 1]) and _clear_probes(('first',), 'long') == 0


def test_the_best_control_decides():
    controls, encoder = curves(k1=1, k2=1, k4=1)
    for r in controls:
        if r['arm'] == 'minirocket' and r['method'] == 'k=4':
            r['macro_f1'] = 0.53
    write_results('probe_first', controls + encoder)
    assert points_ahead(probe_rows('first'), 4)[0] == pytest.approx(-2)
    assert points_ahead(probe_rows('first'), 2)[0] == pytest.approx(1)


def test_a_report_writes_what_is_there_and_names_what_is_missing(tmp_path):
    write_results('toy', toy_rows())
    parts = {
        'toy': {
            'table': lambda: arms_table(read_results('toy')),
            'chart': lambda: arms_chart(['toy'], 'Made up'),
        },
        'later': {'table': lambda: arms_table(read_results('later'))},
    }
    index = write_report(tmp_path / 'p', parts)
    assert index.files.tolist() == ['md, tex, png, html', '']
    assert index.missing['later'] == "no results 'later'"
    written = {p.name for p in (tmp_path / 'p').iterdir()}
    assert written == {
        'toy.md',
        'toy.tex',
        'toy.png',
        'toy.html',
        'index.md',
        'plotly.min.js',
    }
    assert '81.0 ± 2.5' in (tmp_path / 'p' / 'toy.md').read_text()
    blank_a_hash(results_dir() / 'toy.csv', ',c,d,', ',,d,')
    with pytest.raises(ValueError, match='without config_hash cannot be traced'):
        write_report(tmp_path / 'p', parts)


def test_the_report_has_its_parts():
    assert {'goals', 'sizes', 'scores', 'corruptions', 'training'} <= set(report_parts())


def test_a_history_needs_a_name(tmp_path):
    with pytest.raises(ValueError, match='history and results belong together'):
        make_report(ReportConfig(str(tmp_path), history='runs/a'))


@pytest.mark.parametrize('kind', ['bars', 'lines', 'dots'])
def test_several_series_have_a_legend_and_one_has_none(kind):
    two = chart(kind)
    one = replace(two, series=two.series.iloc[:1])
    names = [t.get_text() for t in draw(two).get_legend().get_texts()]
    assert names == ['control', 'distilled'] and draw(one).get_legend() is None
    assert (draw(one).get_title(), draw(one).get_xlabel(), draw(one).get_ylabel()) == (
        'Made up',
        'x',
        'y',
    )
