"The same code in several processes: they share each batch, and end with the same weights"

import os
import subprocess
import sys

import numpy as np

CODE = """
import torch
from accelerate.state import PartialState

from harkd.distill import DistillConfig, distill
from harkd.experiment import experiment_windows
from harkd.runs import set_seed
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.teacher import make_teacher

torch.set_num_threads(1)
cfg = DistillConfig('synth', epochs=2, lr=0.01, batch_size=32)
windows = experiment_windows(cfg)
split = by_subject(windows, ['s1', 's2', 's3'], ['s4'])
loader = BatchLoader.fit(split, augment=cfg.augment)
set_seed(0)
teacher = make_teacher('fusion', windows, width=8).eval()
set_seed(1)
student = make_student('conv_8k', windows, ('imu',))
history = distill(student, teacher, loader, 'kd,rkd,hint', cfg)
state = PartialState()
total = float(sum(p.double().abs().sum() for p in student.parameters()))
rank = f'RANK {state.process_index} of {state.num_processes}'
print(f'{rank}: {total:.10f} {history[-1]["loss"]:.4f}', flush=True)
"""


def sums_of_weights(*command):
    "What each process printed: its line, and the sum of the absolute weights of its student"
    env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}
    env.pop('HARKD_RESULTS', None)
    process = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, timeout=300
    )
    assert process.returncode == 0, process.stderr[-3000:]
    lines = [line for line in process.stdout.splitlines() if line.startswith('RANK')]
    return lines, [float(line.split(': ')[1].split()[0]) for line in lines]


def test_two_processes_learn_one_model(tmp_path):
    script = tmp_path / 'go.py'
    script.write_text(CODE)
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    lines, both = sums_of_weights(*launcher, str(script))
    assert len(lines) == 2 and all('of 2' in line for line in lines)
    # gradients were exchanged: both processes hold the same weights
    assert np.isclose(*both, rtol=1e-6), lines
    _, (alone,) = sums_of_weights(str(script))
    # two halves of a batch, each with its own draws, are not one process's batch
    assert not np.isclose(both[0], alone, rtol=1e-9)
