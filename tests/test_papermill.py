"A parameter that is injected arrives, and one that is misspelt stops the run"

import json
import re
import subprocess
import sys
from pathlib import Path

import papermill as pm
import pytest

from harkd.ablation import AblationConfig
from harkd.arena import ArenaConfig
from harkd.baselines import BaselineConfig
from harkd.cli import read_params, runnable
from harkd.compare import CompareConfig
from harkd.corruptions import CorruptionConfig
from harkd.deploy import DeployConfig
from harkd.depth_maps import DepthConfig
from harkd.depth_networks import DepthNetConfig
from harkd.distill import DistillConfig
from harkd.distill_scores import ScoreDistillConfig
from harkd.distill_video import VideoDistillConfig
from harkd.enrol import EnrolConfig
from harkd.evaluate import LadderConfig
from harkd.explain import ExplainConfig
from harkd.formats import FormatsConfig
from harkd.language import WordsConfig
from harkd.learning_curve import LearningCurveConfig
from harkd.pretrain import PretrainConfig
from harkd.pretrain_ablation import PretrainAblationConfig
from harkd.probe import ProbeConfig
from harkd.report import ReportConfig
from harkd.runs import check_params
from harkd.significance import SignificanceConfig

ROOT = Path(__file__).parent.parent
CONFIGS = {
    'arena': ArenaConfig,
    'distill': DistillConfig,
    'compare': CompareConfig,
    'evaluate': LadderConfig,
    'explain': ExplainConfig,
    'deploy': DeployConfig,
    'formats': FormatsConfig,
    'baselines': BaselineConfig,
    'corruptions': CorruptionConfig,
    'significance': SignificanceConfig,
    'ablation': AblationConfig,
    'report': ReportConfig,
    'learning_curve': LearningCurveConfig,
    'depth_maps': DepthConfig,
    'distill_video': VideoDistillConfig,
    'pretrain': PretrainConfig,
    'probe': ProbeConfig,
    'pretrain_ablation': PretrainAblationConfig,
    'language': WordsConfig,
    'enrol': EnrolConfig,
    'depth_networks': DepthNetConfig,
    'distill_scores': ScoreDistillConfig,
}
OF_THE_NOTEBOOK = {'distill': {'baseline': 'minirocket'}}  # In Python a baseline is asked for


@pytest.mark.parametrize('chapter', CONFIGS)
def test_a_configuration_prints_what_differs_from_its_defaults_alone(chapter):
    cls = CONFIGS[chapter]
    name, (kind, default, _) = next(
        (k, v)
        for k, v in read_params(runnable()[chapter]).items()
        if v[0] == 'str' and k != 'dataset'
    )
    epochs = 'steps=0' if chapter == 'distill_scores' else ''  # instead of the inherited steps
    assert repr(cls()) == f'{cls.__name__}({epochs})'
    changed = object.__new__(cls)
    changed.__dict__.update(vars(cls()) | {name: f'{default}x'})
    expected = ', '.join(filter(None, (f"{name}='{default}x'", epochs)))
    assert repr(changed) == f'{cls.__name__}({expected})'


def execute(chapter, tmp_path, **params):
    return pm.execute_notebook(
        str(runnable()[chapter]),
        str(tmp_path / 'out.ipynb'),
        parameters=params,
        cwd=str(tmp_path),
        progress_bar=False,
        kernel_name='python3',
    )


def text(notebook):
    "All that the cells of an executed notebook printed and returned"
    outputs = [o for c in notebook.cells for o in c.get('outputs', [])]
    return '\n'.join(o.get('text') or o.get('data', {}).get('text/plain', '') for o in outputs)


def test_alpha_really_arrives_and_the_whole_chapter_is_executed(tmp_path):
    "With its definitions and their tests, which `harkd run` leaves out"
    notebook = execute('distill', tmp_path, alpha=0.2, dataset='synth')
    run = Path(re.search(r'run folder: (\S+)', text(notebook))[1])
    config = json.loads((run / 'config.json').read_text())
    assert config['alpha'] == 0.2 and config['temperature'] == 3.0
    assert (run / 'metrics.json').exists()
    source = json.loads(runnable()['distill'].read_text())['cells']
    assert {c['id'] for c in source} <= {c['id'] for c in notebook.cells}
    assert {c.metadata.papermill['status'] for c in notebook.cells} == {'completed'}


def test_misspelt_and_mistyped_parameters_stop_a_chapter(tmp_path):
    with pytest.raises(
        pm.PapermillExecutionError,
        match=r"unknown parameter 'alhpa', valid ones are: .*\bdataset\b.*\balpha\b",
    ):
        execute('distill', tmp_path, alhpa=0.2)
    with pytest.raises(pm.PapermillExecutionError, match="parameter 'seeds' must be int, got 1.5"):
        execute('evaluate', tmp_path, seeds=1.5)


@pytest.mark.parametrize(
    'params,says',
    [
        (['alhpa', '0.2'], "unknown parameter 'alhpa'"),
        (['seeds', '1.5'], "'seeds' must be int, got '1.5'"),
    ],
)
def test_the_command_checks_before_it_runs(params, says):
    command = ['-c', 'from harkd.cli import main; main()', 'run', 'distill', '-p', *params]
    process = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert process.returncode == 2 and says in process.stderr
    if params[0] == 'alhpa':
        assert re.search(r'valid ones are:.*\balpha\b', process.stderr, re.S)


@pytest.mark.parametrize('chapter', sorted(CONFIGS))
def test_parameters_are_the_fields_of_the_configuration(chapter):
    "Name, type and default of each: a notebook without -p runs the default configuration"
    params = {n: d for n, (_, d, _) in read_params(runnable()[chapter]).items()}
    cls = CONFIGS[chapter]
    check_params(cls, params)
    default = cls(**OF_THE_NOTEBOOK.get(chapter, {}))
    assert cls(**params) == default, 'a default of the notebook differs from its configuration'


def test_every_runnable_chapter_is_known_here():
    assert set(runnable()) == set(CONFIGS)
