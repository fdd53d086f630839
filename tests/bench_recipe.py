"""Is there a better default recipe? Chosen inside training subjects, judged once on others.

    HARKD_DATA=DIR python -m tests.bench_recipe choose OUT [--variants a,b]
    HARKD_DATA=DIR python -m tests.bench_recipe judge OUT --variants a,b
    python -m tests.bench_recipe table OUT    # nbs/results/development/recipe_choice.csv

Every second subject of a set is judged (JUDGED), the others (CHOICE) are trained on. The choice
between recipes sees the subjects of CHOICE alone: two thirds of them train, a third is evaluated.
Then the chosen recipe and the present default are trained on all of CHOICE, and evaluated on
JUDGED beside MiniRocket. Of UTD-MHAD only the published training subjects are used. Of many
training windows every k-th is used, for networks and MiniRocket alike."""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from harkd.distill import DistillConfig, distill, rocket_scores
from harkd.experiment import experiment_inputs, experiment_windows
from harkd.metrics import scores
from harkd.preprocess import Windows
from harkd.runs import processor, results_dir, set_seed
from harkd.split import BatchLoader, Split, by_subject, inseparable_subjects
from harkd.student import make_student
from harkd.teacher import Ensemble, fit_rocket, make_teacher
from harkd.train import cross_entropy, predict, train

JUDGED_SETS = ('wisdm', 'motionsense', 'utd_mhad', 'hapt', 'selfback', 'dsads', 'spar', 'sp_sw_har')
CHOICE_FOLDS = (('wisdm', 0), ('wisdm', 1), ('motionsense', 0), ('hapt', 0))
MOST_WINDOWS = 4_000

# Fields of `DistillConfig`; norm: with the magnitudes of the sensors; teacher: model of the teacher
VARIANTS = {
    'default': {},
    'norm': dict(norm=True),
    'norm_rotate': dict(norm=True, rotate=30.0, scale=0.2),
    'norm_mixup': dict(norm=True, mixup=1.0),
    'norm_long': dict(norm=True, steps=8000),
    'norm_rocket': dict(norm=True, teacher='rocket'),
    'norm_blank': dict(norm=True, blank=0.4, drop=0.2),
    'norm_smooth': dict(norm=True, ema=0.999, weight_decay=0.05),
    'rotate': dict(rotate=30.0, scale=0.2),
    'rocket': dict(teacher='rocket'),
    'wide_rocket': dict(teacher='wide,rocket'),
}


def recipe(variant: str, dataset: str, **fields) -> tuple[DistillConfig, str]:
    "Configuration, and the teacher's models ('': the student is trained alone)"
    values = {**fields, **VARIANTS[variant]}
    norm, teacher = values.pop('norm', False), values.pop('teacher', '')
    cfg = DistillConfig(dataset, **values)
    if norm:
        card = experiment_windows(cfg).card
        cfg = replace(cfg, student_inputs=experiment_inputs(cfg, card)[0][0] + '+norm')
    return cfg, teacher


def student_windows(cfg: DistillConfig) -> tuple[Windows, str]:
    "Windows, and the student's input"
    card = experiment_windows(replace(cfg, student_inputs='')).card
    name = experiment_inputs(cfg, card)[0][0]
    return experiment_windows(replace(cfg, student_inputs=name, teacher_inputs=name)), name


def halves(windows: Windows) -> tuple[list, list]:
    "Subjects of the choice, and judged subjects; who shares a group stays together"
    names = list(windows.card.train_subjects) or None
    teams = inseparable_subjects(windows, names)
    return teams[::2], teams[1::2]


def flat(teams) -> list[str]:
    return [name for team in teams for name in team]


def thinned(split: Split) -> Split:
    "With every k-th training window, where there are many"
    return replace(split, train=split.train[:: -(-len(split.train) // MOST_WINDOWS)])


def choice_split(windows: Windows, fold: int) -> Split:  # of 3
    teams, _ = halves(windows)
    held = teams[fold::3]
    rest = [team for team in teams if team not in held]
    return thinned(by_subject(windows, flat(rest), flat(held), protocol='choice', fold=str(fold)))


def judged_split(windows: Windows) -> Split:
    chosen, judged = halves(windows)
    return thinned(by_subject(windows, flat(chosen), flat(judged), protocol='judged'))


def trained_teacher(kinds, loader, name, cfg, seed):
    members = []
    for i, kind in enumerate(kinds.split(',')):
        set_seed(1000 * i + seed)
        model = make_teacher(kind, loader.split.windows, (name,))
        if kind == 'rocket':
            fit_rocket(model, loader, seed, copies=1, strengths=(1e2, 1e3, 1e4))
        else:
            train(model, loader, cross_entropy(cfg.label_smoothing), cfg.training(seed))
        members.append(model)
    return members[0] if len(members) == 1 else Ensemble.of(members)


def decisions(split, cfg, name, teacher, seed):
    "Decisions of the student, and of its teacher, for the held-out windows"
    loader = BatchLoader.fit(split, augment=cfg.augment)
    set_seed(seed)
    student = make_student(cfg.student, split.windows, (name,))
    found = {}
    if teacher:
        model = trained_teacher(teacher, loader, name, cfg, seed)
        distill(student, model, loader, cfg=cfg, seed=seed)
        found['teacher'] = predict(model, loader, split.val).argmax(1).numpy()
    else:
        loss = cross_entropy(cfg.label_smoothing)
        train(student, loader, loss, cfg.training(seed))
    return {'student': predict(student, loader, split.val).argmax(1).numpy(), **found}


def subject_scores(split, decided) -> dict[str, float]:
    "Macro-F1 of each held-out subject, in percent"
    windows = split.windows
    subject = windows.table.subject.iloc[split.val].to_numpy()
    return {
        name: 100
        * scores(windows.y[split.val][subject == name], decided[subject == name])['macro_f1']
        for name in dict.fromkeys(subject)
    }


def add_rows(path, key: dict, split, decided, seconds):
    "A row for each held-out subject and model"
    of_all = scores(split.windows.y[split.val], decided)
    new = not path.exists()
    with open(path, 'a', newline='') as file:
        for subject, f1 in subject_scores(split, decided).items():
            row = {**key, 'subject': subject, 'subject_macro_f1': f'{f1:.3f}'}
            row |= {k: f'{100 * of_all[k]:.3f}' for k in ('accuracy', 'macro_f1')}
            row |= {'windows': len(split.train), 'cpu_s': f'{seconds:.0f}'}
            row |= {'data_hash': split.windows.hash, 'device': processor()}
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
                new = False
            writer.writerow(row)


def run_one(path, part, dataset, fold, variant, seed, **fields):
    "Train and evaluate one recipe, unless its row is there"
    key = dict(part=part, dataset=dataset, fold=fold, variant=variant, seed=seed)
    if path.exists():
        done = pd.read_csv(path, dtype=str)[list(key)]
        if (done == pd.Series({k: str(v) for k, v in key.items()})).all(axis=1).any():
            return
    start = time.process_time()
    cfg, teacher = recipe('default' if variant == 'minirocket' else variant, dataset, **fields)
    windows, name = student_windows(cfg)
    split = judged_split(windows) if part == 'judged' else choice_split(windows, fold)
    if variant == 'minirocket':
        found = {'minirocket': rocket_scores(split, name, split.val, seed)[0].argmax(1).numpy()}
    else:
        found = decisions(split, cfg, name, teacher, seed)
    seconds = time.process_time() - start
    for model, decided in found.items():
        add_rows(path, {**key, 'model': model}, split, decided, seconds)
        right = scores(windows.y[split.val], decided)
        text = ', '.join(f'{k} {100 * right[k]:.2f}' for k in ('accuracy', 'macro_f1'))
        print(*key.values(), model, text, f'{seconds:.0f} s', flush=True)


def choose(a):
    for variant in a.variants.split(','):
        for dataset, fold in CHOICE_FOLDS:
            run_one(a.out, 'choice', dataset, fold, variant, 0, steps=a.steps)


def judge(a):
    for seed in range(a.seeds):
        for dataset in a.sets.split(','):
            for variant in ('minirocket', *a.variants.split(',')):
                run_one(a.out, 'judged', dataset, 0, variant, seed)


def write_table(a):
    "All rows, and on the screen the mean over subjects of each recipe"
    rows = pd.read_csv(a.out)
    rows.to_csv(results_dir() / 'development' / 'recipe_choice.csv', index=False)
    key = ['part', 'dataset', 'fold', 'variant', 'model']
    print(rows.groupby(key).subject_macro_f1.mean().unstack(['variant', 'model']).round(2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=('choose', 'judge', 'table'))
    parser.add_argument('out', type=Path, help='rows, as they come')
    parser.add_argument('--variants', default=','.join(VARIANTS))
    parser.add_argument('--sets', default=','.join(JUDGED_SETS))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=2000, help='of each training of the choice')
    a = parser.parse_args()
    torch.set_num_threads(1)
    {'choose': choose, 'judge': judge, 'table': write_table}[a.what](a)


if __name__ == '__main__':
    main()
