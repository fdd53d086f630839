"A published table was made by the recipe that claims it"

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from docs.results_index import RECIPES, RESULTS, WITHOUT_RECIPE, recipe_files
from harkd.ablation import AblationConfig
from harkd.arena import ArenaConfig
from harkd.baselines import BaselineConfig
from harkd.cli import parse_params, read_params, recipes, runnable
from harkd.depth_maps import DepthConfig
from harkd.depth_networks import DepthNetConfig
from harkd.distill import DistillConfig
from harkd.distill_scores import ScoreDistillConfig
from harkd.distill_video import VideoDistillConfig
from harkd.evaluate import LadderConfig
from harkd.learning_curve import LearningCurveConfig
from harkd.pretrain import PretrainConfig, load_encoder
from harkd.pretrain_ablation import PretrainAblationConfig
from harkd.probe import ProbeConfig
from harkd.report import GOALS, read_results
from harkd.runs import hash_config, read_ledger, results_dir, results_file
from harkd.significance import read_predictions

CONFIGS = {
    'ablation': AblationConfig,
    'arena': ArenaConfig,
    'distill': DistillConfig,
    'evaluate': LadderConfig,
    'baselines': BaselineConfig,
    'learning_curve': LearningCurveConfig,
    'depth_maps': DepthConfig,
    'pretrain': PretrainConfig,
    'probe': ProbeConfig,
    'pretrain_ablation': PretrainAblationConfig,
    'depth_networks': DepthNetConfig,
    'distill_scores': ScoreDistillConfig,
    'distill_video': VideoDistillConfig,
}
ALL = recipes()
TRAINED = {name: r for name, r in ALL.items() if r['chapter'] in CONFIGS}
TOP = {'ledger.csv', 'reruns.csv', 'README.md', 'demo.txt'}
LEDGER_KEY = ['dataset', 'protocol', 'fold', 'n', 'model', 'arm', 'seed', 'config_hash']


def config_hash(recipe):
    return hash_config(CONFIGS[recipe['chapter']](**recipe['params']))


def runs_read(params):
    "Names of the runs that the parameters of a recipe refer to"
    names = [n for k in ('teacher', 'run', 'runs') for n in params.get(k, '').split(',')]
    return {n for n in names if n}


# Recipes


@pytest.mark.parametrize('name', sorted(ALL))
def test_parameters_are_known_and_typed(name):
    params = ALL[name]['params']
    known = read_params(runnable()[ALL[name]['chapter']])
    assert parse_params([(k, str(v)) for k, v in params.items()], known) == params


@pytest.mark.parametrize('name', sorted(ALL))
def test_a_recipe_says_what_it_does(name):
    assert ALL[name]['says']


@pytest.mark.parametrize('name', sorted(TRAINED))
def test_the_table_has_the_hash_of_its_recipe(name, published):
    file = results_file(f'{TRAINED[name]["params"]["results"]}.csv')
    table = pd.read_csv(file, dtype={'config_hash': str})
    assert set(table.config_hash) == {config_hash(TRAINED[name])}


@pytest.mark.parametrize('name', sorted(n for n, r in TRAINED.items() if 'seeds' in r['params']))
def test_the_table_has_the_seeds_of_its_recipe(name, published):
    params = TRAINED[name]['params']
    table = read_results(params['results'])
    assert table.groupby('arm').seed.nunique().max() == params['seeds']


def test_the_encoder_that_is_installed_is_the_one_of_its_recipe():
    encoder, about = load_encoder('harkd-base')
    assert about['config_hash'] == config_hash(ALL['pretrain_base'])
    assert set(about['trained_on']) == set(ALL['pretrain_base']['params']['datasets'].split(','))
    assert about['config'] == encoder.config


@pytest.mark.parametrize('name', sorted(set(ALL) - set(TRAINED)))
def test_what_reads_runs_was_made_from_the_runs_of_its_recipe(name, published):
    params = ALL[name]['params']
    runs = [r for r in TRAINED.values() if 'run' in r['params']]
    hash_of_run = {r['params']['run']: config_hash(r) for r in runs}
    if ALL[name]['chapter'] == 'significance':
        table = read_predictions(params['results'])
    else:  # corruptions fit their own MiniRocket
        table = read_results(params['results']).query("model != 'minirocket'")
    assert set(table.config_hash) == {hash_of_run[n] for n in runs_read(params)}


@pytest.mark.parametrize('chain', sorted({goal[2] for goal in GOALS}))
def test_the_recipes_of_a_goal_run_in_their_order_from_nothing(chain):
    made = set()
    for name in chain.split(', then '):
        params = ALL[name]['params']
        own = {params['run']} if 'run' in params else set()
        missing = runs_read(params) - own - made
        assert not missing, f'{name} reads {missing}, which no recipe before it makes'
        made |= own


# Files


def result_files():
    files = [p for p in RESULTS.rglob('*') if p.is_file() and p.suffix != '.lock']
    return [p for p in files if not p.name.startswith('ledger_')]


def test_every_result_file_has_a_recipe_or_is_said_to_have_none():
    written = set(recipe_files())
    written |= set(recipe_files()) | set(WITHOUT_RECIPE) | TOP
    assert {p.name for p in result_files()} - written == set()


@pytest.mark.parametrize('root', [RESULTS, RECIPES], ids=['results', 'recipes'])
def test_no_two_folders_hold_a_file_of_the_same_name(root):
    names = Counter(p.name for p in root.rglob('*.*'))
    assert [n for n, times in names.items() if times > 1] == []


def test_a_result_lies_in_the_folder_of_its_recipe():
    for path in RECIPES.rglob('*.json'):
        results = json.loads(path.read_text(encoding='utf8'))['params']['results']
        folder = RESULTS / path.parent.name
        assert list(folder.glob(f'{results}*.csv*')), f'{path.parent.name}/{results}'


def test_repeated_trainings_are_of_the_published_configuration(published):
    for row in pd.read_csv(RESULTS / 'reruns.csv').itertuples():
        table = read_results(row.experiment)
        assert set(table.config_hash) == {row.config_hash}
        assert set(table.data_hash) == {row.data_hash}
        assert len(table) == row.rows


# The ledger


def test_the_ledger_is_whole(published):
    assert len(read_ledger()) >= 1925


def published_tables():
    "Tables whose rows can be looked up in the ledger"
    for path in sorted(results_dir().rglob('utd_*.csv')):
        table = pd.read_csv(path, dtype=str).fillna('')
        if {*LEDGER_KEY, 'part', 'accuracy'} <= set(table):
            yield path.stem, table[table.part == 'test']


def test_every_published_evaluation_of_test_subjects_is_in_the_ledger(published):
    ledger = read_ledger().fillna('')
    entered = {}
    for key, value in zip(ledger[LEDGER_KEY].itertuples(index=False, name=None), ledger.accuracy):
        entered.setdefault(key, []).append(float(value or 'nan'))
    missing = set()
    for name, table in published_tables():
        for key, value in zip(table[LEDGER_KEY].itertuples(index=False, name=None), table.accuracy):
            known = np.array(entered.get(key, [np.nan]))
            if not (np.abs(known - float(value)) < 1e-5).any():
                missing.add(f'{name}: {" ".join(key)}')
    assert missing == set()


def test_the_ledger_is_compared_with_many_tables(published):
    assert len(list(published_tables())) > 20
