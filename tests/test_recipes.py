"A published table was made by the recipe that says so"
import pytest
from harkd.ablate import AblateConfig
from harkd.baselines import BaselineConfig
from harkd.cli import parse_params,read_params,recipes,runnable
from harkd.distill import DistillConfig
from harkd.evaluate import LadderConfig
from harkd.paper import GOALS
from harkd.report import read_results
from harkd.runs import hash_config

CONFIGS = {'ablate':AblateConfig, 'distill':DistillConfig, 'evaluate':LadderConfig, 'baselines':BaselineConfig}
TRAINED = {n:r for n,r in recipes().items() if r['chapter'] in CONFIGS}

@pytest.mark.parametrize('name', sorted(recipes()))
def test_parameters_are_known_and_typed(name):
    r = recipes()[name]; known = read_params(runnable()[r['chapter']])
    assert parse_params([(k, str(v)) for k,v in r['params'].items()], known)==r['params'] and r['says']

@pytest.mark.parametrize('name', sorted(TRAINED))
def test_the_table_has_the_hash_of_its_recipe(name, monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')   # tests write elsewhere
    r = TRAINED[name]; table = read_results(r['params']['results'])
    assert set(table.config_hash)=={hash_config(CONFIGS[r['chapter']](**r['params']))}
    assert table.groupby('arm').seed.nunique().max()==r['params']['seeds']

@pytest.mark.parametrize('chain', sorted({g[2] for g in GOALS}))
def test_the_recipes_of_a_goal_run_in_their_order_from_nothing(chain):
    made = set()
    for name in chain.split(', then '):
        r = recipes()[name]; p = r['params']; own = {p['run']} if r['chapter'] in CONFIGS else set()
        needs = {n for k in ('teacher','run','runs') for n in p.get(k, '').split(',') if n}-own
        assert needs<=made, f"{name} reads {', '.join(sorted(needs-made))}, which no recipe before it makes"
        made |= own
