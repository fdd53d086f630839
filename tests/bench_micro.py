"""Flash and memory of the int8 students under TensorFlow Lite Micro, on this machine.

    python -m tests.bench_micro     writes nbs/results/benchmarks/micro_students.json

The students have the size that UTD-MHAD needs and are untrained: neither the file's size nor the
arena depends on the values of the weights."""

import json

import numpy as np
import torch

from harkd.data import DATASETS
from harkd.microcontroller import run_micro
from harkd.runs import results_file, set_seed, write_bytes
from harkd.student import STUDENTS
from harkd.tflite import tflite_bytes, tflite_ops

SHAPE = (DATASETS['utd_mhad'].length, 6)  # Samples and channels of a trial
NAMES = ('conv_80k', 'conv_20k', 'conv_8k')


def measure(name):
    "One student: bytes of its file, bytes of the arena, largest difference to its model in float"
    set_seed(0)
    made, size = STUDENTS[name]
    student = made(channels=SHAPE[1], classes=len(DATASETS['utd_mhad'].classes), **size).eval()
    x = torch.randn(64, *SHAPE)
    data = tflite_bytes(student, SHAPE, x)['int8']
    logits, arena = run_micro(data, x[:8].numpy())
    with torch.no_grad():
        gap = np.abs(student(x[:8]).numpy() - logits).max()
    return {
        'student': name,
        'file_bytes': len(data),
        'arena_bytes': arena,
        'operators': tflite_ops(data),
        'largest_difference': round(float(gap), 4),
    }


def main():
    found = {'window': SHAPE, 'students': [measure(name) for name in NAMES]}
    text = json.dumps(found, indent=1) + '\n'
    write_bytes(results_file('benchmarks/micro_students.json'), text.encode())
    print(text)


if __name__ == '__main__':
    main()
