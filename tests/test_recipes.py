"A published table was made by the recipe that says so"

import pandas as pd
import pytest

from harkd.ablation import AblationConfig
from harkd.baselines import BaselineConfig
from harkd.cli import parse_params, read_params, recipes, runnable
from harkd.depth_maps import DepthConfig
from harkd.distill import DistillConfig
from harkd.evaluate import LadderConfig
from harkd.learning_curve import LearningCurveConfig
from harkd.report import GOALS, read_results
from harkd.runs import hash_config, read_ledger, results_dir
from harkd.significance import read_predictions

CONFIGS = {
    'ablate': AblationConfig,
    'distill': DistillConfig,
    'evaluate': LadderConfig,
    'baselines': BaselineConfig,
    'curve': LearningCurveConfig,
    'depth_maps': DepthConfig,
}
TRAINED = {n: r for n, r in recipes().items() if r['chapter'] in CONFIGS}


@pytest.mark.parametrize('name', sorted(recipes()))
def test_parameters_are_known_and_typed(name):
    r = recipes()[name]
    known = read_params(runnable()[r['chapter']])
    assert (
        parse_params([(k, str(v)) for k, v in r['params'].items()], known) == r['params']
        and r['says']
    )


@pytest.mark.parametrize('name', sorted(TRAINED))
def test_the_table_has_the_hash_of_its_recipe(name, monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')  # tests write elsewhere
    r = TRAINED[name]
    table = read_results(r['params']['results'])
    assert set(table.config_hash) == {hash_config(CONFIGS[r['chapter']](**r['params']))}
    assert table.groupby('arm').seed.nunique().max() == r['params']['seeds']


@pytest.mark.parametrize('name', sorted(set(recipes()) - set(TRAINED)))
def test_what_reads_runs_was_made_from_the_runs_of_its_recipe(name, monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')
    r = recipes()[name]
    p = r['params']
    own = {
        t['params']['run']: hash_config(CONFIGS[t['chapter']](**t['params']))
        for t in TRAINED.values()
    }
    table = (
        read_predictions(p['results'])
        if r['chapter'] == 'judge'
        else read_results(p['results']).query("model!='minirocket'")
    )  # corruptions fit their own MiniRocket
    assert set(table.config_hash) == {
        own[n] for k in ('run', 'runs') for n in p.get(k, '').split(',') if n
    }


UNMADE = (
    'ledger',
    'bench_',
    'utd_official',
    'utd_compare',
    'utd_stream',
    'utd_explain',
)  # README says that no recipe makes these


def test_every_published_table_has_a_recipe_or_is_said_to_have_none(monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')
    made = {r['params']['results'] for r in recipes().values()}
    made |= {f'{n}_{k}' for n in made for k in ('rerun', 'history')}
    names = {
        p.name.split('.')[0].removesuffix('_answers') for p in results_dir().glob('*.csv*')
    } - made
    assert not {n for n in names if not n.startswith(UNMADE)}


@pytest.mark.parametrize('chain', sorted({g[2] for g in GOALS}))
def test_the_recipes_of_a_goal_run_in_their_order_from_nothing(chain):
    made = set()
    for name in chain.split(', then '):
        r = recipes()[name]
        p = r['params']
        own = {p['run']} if r['chapter'] in CONFIGS else set()
        needs = {n for k in ('teacher', 'run', 'runs') for n in p.get(k, '').split(',') if n} - own
        assert needs <= made, (
            f'{name} reads {", ".join(sorted(needs - made))}, which no recipe before it makes'
        )
        made |= own


def test_every_published_look_at_test_subjects_is_in_the_ledger(monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')
    key = ['dataset', 'protocol', 'fold', 'n', 'model', 'arm', 'seed', 'config_hash']
    read = lambda p: pd.read_csv(p, dtype=str).fillna('')
    looks = read_ledger().fillna('')
    told = {}
    for k, a in zip(looks[key].itertuples(index=False, name=None), looks.accuracy):
        told.setdefault(k, []).append(float(a or 'nan'))
    tables = [
        (p.stem, t)
        for p in sorted(results_dir().glob('utd_*.csv'))
        if {*key, 'part', 'accuracy'} <= set((t := read(p)).columns)
    ]
    assert len(tables) > 20
    missing = {
        f'{name}: {" ".join(k)}'
        for name, t in tables
        for k, a in zip(
            t.loc[t.part == 'test', key].itertuples(index=False, name=None),
            t.loc[t.part == 'test', 'accuracy'],
        )
        if not any(abs(float(a) - b) < 1e-5 for b in told.get(k, ()))
    }
    assert not missing
