"The same code in several processes: they share each batch, and end with the same weights"

import os
import subprocess
import sys

import numpy as np

CODE = """
import sys,torch
from dataclasses import replace
from harkd.distill import DistillConfig,distill
from harkd.experiment import experiment_windows
from harkd.runs import set_seed
from harkd.split import BatchLoader,by_subject
from harkd.student import make_student
from harkd.teacher import make_teacher
torch.set_num_threads(1)
cfg = DistillConfig('synth', epochs=2, lr=.01, batch_size=32); w = experiment_windows(cfg); loader = BatchLoader.fit(by_subject(w, ['s1','s2','s3'], ['s4']), augment=cfg.augment)
set_seed(0); teacher = make_teacher('fusion', w, width=8).eval(); set_seed(1); student = make_student('conv_8k', w, ('imu',))
h = distill(student, teacher, loader, 'kd,rkd,hint', cfg)
from accelerate.state import PartialState
p = PartialState(); print(f'RANK {p.process_index} of {p.num_processes}: {float(sum(v.double().abs().sum() for v in student.parameters())):.10f} {h[-1]["loss"]:.4f}', flush=True)
"""


def test_two_processes_learn_one_model(tmp_path):
    (tmp_path / 'go.py').write_text(CODE)
    env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}
    env.pop('HARKD_RESULTS', None)
    p = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            str(tmp_path / 'go.py'),
        ],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert p.returncode == 0, p.stderr[-3000:]
    lines = sorted(l for l in p.stdout.splitlines() if l.startswith('RANK'))
    assert len(lines) == 2 and all('of 2' in l for l in lines), p.stdout
    a, b = (l.split(': ')[1].split()[0] for l in lines)
    assert np.isclose(float(a), float(b), rtol=1e-6), (
        lines
    )  # gradients were exchanged: both hold the same weights
    alone = subprocess.run(
        [sys.executable, str(tmp_path / 'go.py')],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    ).stdout
    c = next(l for l in alone.splitlines() if l.startswith('RANK')).split(': ')[1].split()[0]
    assert not np.isclose(
        float(a), float(c), rtol=1e-9
    )  # and two halves of a batch, each with its own draws, are not one process's batch
