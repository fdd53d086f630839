"""Are the default students accepted as int8 TFLite on every data set at hand?

    HARKD_DATA=DIR python -m tests.bench_int8        writes nbs/results/formats/int8_students.csv

For each data set and student: a short training on the first of five folds, without a teacher, then
what `harkd export --format tflite --quantize int8 --until-accepted` does, compared with the model
on windows of the held-out subjects. `--keep DIR` keeps the trained models."""

import argparse
from pathlib import Path

import pandas as pd
import torch

from harkd.augment import Augment
from harkd.cost import count_params
from harkd.data import load_dataset
from harkd.deploy import ExportMismatch
from harkd.formats import ExportAttempt, TrainedModel, attempt_export, export_attempts
from harkd.preprocess import cut_windows
from harkd.quantize import held_out_windows
from harkd.runs import load_model, processor, results_file, save_model, set_seed
from harkd.split import BatchLoader, kfold_splits
from harkd.student import STUDENTS, HarModel, make_student
from harkd.train import TrainConfig, cross_entropy, train

DATASETS = (
    *('spar', 'sp_sw_har', 'utd_mhad', 'motionsense', 'selfback', 'hapt', 'wisdm', 'dsads'),
)
AUGMENT = Augment(warp=0.3, crop=0.08, rotate=12.0, yaw=15.0, scale=0.1, jitter=0.05, mixup=0.3)


def trained_student(name, loader, steps, folder) -> HarModel:
    "A student after `steps` steps at least; from its folder, if it is there"
    if folder and (folder / 'harkd.json').exists():
        return load_model(folder)[0]
    set_seed(0)
    model = make_student(name, loader.split.windows)
    epochs = max(1, round(steps / loader.steps))
    train(model, loader, cross_entropy(0.1), TrainConfig(epochs=epochs))
    if folder:
        save_model(model.eval(), folder)
    return model.cpu().eval()


def exported(trained, format='tflite') -> dict:
    "The first accepted attempt, and how often int8 decided as the model when it was tried first"
    row = {}
    for attempt in export_attempts(trained, 'int8'):
        found, reason = try_one(trained, attempt, format)
        if not row:
            row |= {f'first_{k}': found[k] for k in ('same', 'same_sure', 'lost')}
            row['first_accepted'] = not reason
            row['accepted_by_the_old_rule'] = found['same'] >= 0.99 and found['lost'] <= 0.005
        if not reason:
            return {**row, 'way': attempt.way, 'precision': attempt.precision, **found}
    return {**row, 'way': 'refused', **found}


def try_one(trained, attempt: ExportAttempt, format):
    "Numbers of one attempt, and why it was refused ('': it was not)"
    try:
        file = attempt_export(trained, attempt, format)
    except ExportMismatch as e:
        print(f'   {attempt.way}: {e}', flush=True)
        return e.found, str(e)
    return {**file.found, 'bytes': len(file.data)}, ''


def result_row(dataset, windows, student, steps, keep) -> dict:
    loader = BatchLoader.fit(kfold_splits(windows, 5)[0], augment=AUGMENT)
    folder = keep / dataset / student if keep else None
    model = trained_student(student, loader, steps, folder)
    (name,) = model.inputs
    ids = loader.split.val
    x, y = held_out_windows(loader, ids, name)
    training = [b.x[name] for b in loader.eval_batches(loader.split.train)]
    about = {'length': windows.length, 'channels': {name: windows.channels(name)}}
    trained = TrainedModel(None, loader, ids, model, about, x, y, torch.cat(training))
    return dict(
        dataset=dataset,
        student=student,
        params=count_params(model),
        steps=steps,
        subjects=len(loader.split.subjects('val')),
        held_out=len(ids),
        **exported(trained),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--datasets', default=','.join(DATASETS))
    parser.add_argument('--students', default='conv_8k,conv_20k,conv_80k')
    parser.add_argument('--steps', type=int, default=2000, help='of each training')
    parser.add_argument('--keep', type=Path, help='folder for the trained models')
    args = parser.parse_args()
    assert set(args.students.split(',')) <= set(STUDENTS)
    rows = []
    for dataset in args.datasets.split(','):
        data = load_dataset(dataset)
        windows = cut_windows(data, data.card.student)
        for student in args.students.split(','):
            row = result_row(dataset, windows, student, args.steps, args.keep)
            rows.append({**row, 'data_hash': windows.hash, 'device': processor()})
            print({k: v for k, v in row.items() if not k.startswith('margin')}, flush=True)
            path = results_file('int8_students.csv')
            if path.parent.name == 'results':
                path = path.parent / 'formats' / path.name
            pd.DataFrame(rows).to_csv(path, index=False, float_format='%.4f')


if __name__ == '__main__':
    main()
