"nbs/results/README.md: which recipe or command wrote which result file"

import json
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RECIPES = ROOT / 'nbs' / 'results', ROOT / 'nbs' / 'recipes'

THEMES = {
    'distillation': 'Teacher, student alone and distilled student: official split and folds.',
    'leave_one_subject_out': 'UTD-MHAD, each of the eight subjects left out in turn.',
    'development': 'The choices made inside training subjects of UTD-MHAD, and the default recipe.',
    'baselines': 'Majority class, random forest over catch22 features, MiniRocket.',
    'pretraining': 'Losses of the pretrainings (chapter 06).',
    'arena': 'WHAR Arena: its protocol, our models and one of its own (chapter 07k).',
    'probe': 'Pretrained encoders on data sets they have not seen, k labelled recordings (06b).',
    'ladder': 'The protocol ladder: the same model under splits that leak and splits that do not.',
    'ablation': 'One change of the recipe at a time; the learning curve over training subjects.',
    'methods': 'Twenty ways to learn from a teacher, compared (chapter 05a).',
    'corruptions': 'Accuracy on corrupted signals.',
    'predictions': 'The prediction of every model for every test window, for significance tests.',
    'formats': 'Exported files: size, accuracy and agreement with the model.',
    'explanations': 'Faithfulness of attributions, and how distillation changes them (chapter 08).',
    'video': 'Depth video of UTD-MHAD alone, beside the IMU, as a teacher (04g, 04i, 05b, 05c).',
    'words': 'Classes of unseen data sets named by words, beside controls (chapter 06a).',
    'benchmarks': 'Latency, stream and explorer, measured on one machine.',
}
COMPARE = 'chapter 05a: `harkd run compare`'
EXPLAIN = 'chapter 08: `harkd run explain`'
BENCH = '`make bench`'
WORDS = 'chapter 06a: `harkd run language`'
WITHOUT_RECIPE = {
    'utd_official.csv': (
        'the training that `explanations/` explains, before the recipes',
        '`harkd run distill`',
    ),
    'utd_100k_history.csv': ('training loss of each epoch', 'chapter 07i'),
    'utd_100k_rerun.csv': ('utd_100k again, on another processor', 'recipe `utd_100k`'),
    'utd_25k_rerun.csv': ('utd_25k again, on another processor', 'recipe `utd_25k`'),
    'utd_10k_rerun.csv': ('utd_10k again, on another processor', 'recipe `utd_10k`'),
    'utd_compare.csv': ('every training of the comparison', COMPARE),
    'utd_compare_table.csv': ('each method against the student alone', COMPARE),
    'utd_compare_self.csv': ('each method against a teacher with the same input', COMPARE),
    'utd_explain_classes.csv': ('attribution of each channel, by activity', EXPLAIN),
    'utd_explain_looks.csv': ('channels that gained and lost by distillation', EXPLAIN),
    'utd_explain_missed.csv': ('windows whose completeness gap was too large', EXPLAIN),
    'utd_explain_proof.csv': ('faithfulness against random and untrained maps', EXPLAIN),
    'utd_explain_scores.csv': ('the same, for each subject and seed', EXPLAIN),
    'utd_explain_st_convt_attention.csv': ('attention of teacher and control', EXPLAIN),
    'utd_explain_transformer_attention.csv': ('attention of student and control', EXPLAIN),
    'default_choice.csv': (
        'which student and teacher to have as default: seven data sets, four folds, three seeds',
        '`python -m tests.bench_default`',
    ),
    'default_against_minirocket.csv': (
        'the same against MiniRocket, over subjects',
        '`python -m tests.bench_default`',
    ),
    'recipe_choice.csv': (
        'a change of the default recipe, tried inside training subjects only',
        '`python -m tests.bench_recipe`',
    ),
    'bench_pretrain.json': (
        'loader, encoders, memory and a training step of the pretraining',
        '`python -m tests.bench_pretrain`',
    ),
    'pretrain_side_by_side.json': (
        'pretrainings side by side on one GPU; a full-size one, killed and resumed',
        'by hand, from the logs of 27 November 2026',
    ),
    'bench_first_step.json': (
        'seconds from `harkd run distill` to its first training step',
        '`python -m tests.bench_first_step`',
    ),
    'bench_data.json': (
        'time and memory of checking and reading large studies',
        '`python -m tests.bench_data`',
    ),
    'int8_students.csv': (
        'int8 TFLite of short trainings: accuracy, same decisions, with and without margin',
        '`python -m tests.bench_int8`',
    ),
    'fuzz_own_data.json': (
        'studies damaged at random: what a user sees',
        '`python -m tests.fuzz_own_data`',
    ),
    'mutation.json': (
        'changes of one place of the package at random, and whether a test noticed',
        '`python -m tests.mutate`',
    ),
    'fuzz_stream.json': (
        'streams of damaged CSV and of arrays of any kind: what a caller sees',
        '`python -m tests.fuzz_bundles stream`',
    ),
    'fuzz_bundle.json': (
        'bundles damaged at random, often sealed again: what a user sees',
        '`python -m tests.fuzz_bundles bundle`',
    ),
    'fuzz_readers.json': (
        'downloads of published data sets damaged at random: what a user sees',
        '`python -m tests.fuzz_readers`',
    ),
    'flip_bytes.json': (
        'a flipped bit in every byte of a run, a model, a checkpoint and bundles of all formats',
        '`python -m tests.flip_bytes`',
    ),
    'bench_loader.json': (
        'a million windows: memory, normaliser, order of an epoch, share of a training step',
        '`python -m tests.bench_loader`',
    ),
    'kill_runs.json': (
        'runs, exports and writes of the ledger, killed at random moments and resumed',
        '`python -m tests.kill_runs`',
    ),
    'bench_video.json': (
        'Gramian images a second, against loops and pyts; frames of 10,000 clips in flat memory',
        '`python -m tests.bench_video`',
    ),
    'utd_depth_r2plus1d_logits.npz': (
        'logits of utd_depth_r2plus1d for the test trials, first seed',
        'recipe `utd_depth_r2plus1d`',
    ),
    'motionsense_encoder_20k_predictions.csv.gz': (
        'decisions of `motionsense_encoder_20k` for each window',
        'recipe `motionsense_encoder_20k`',
    ),
    'motionsense_encoder_80k_predictions.csv.gz': (
        'decisions of `motionsense_encoder_80k` for each window',
        'recipe `motionsense_encoder_80k`',
    ),
    'motionsense_wide_20k_predictions.csv.gz': (
        'decisions of `motionsense_wide_20k` for each window',
        'recipe `motionsense_wide_20k`',
    ),
    'spar_encoder_20k_predictions.csv.gz': (
        'decisions of `spar_encoder_20k` for each window',
        'recipe `spar_encoder_20k`',
    ),
    'spar_encoder_80k_predictions.csv.gz': (
        'decisions of `spar_encoder_80k` for each window',
        'recipe `spar_encoder_80k`',
    ),
    'spar_wide_20k_predictions.csv.gz': (
        'decisions of `spar_wide_20k` for each window',
        'recipe `spar_wide_20k`',
    ),
    'utd_encoder_20k_loso_predictions.csv.gz': (
        'decisions of `utd_encoder_20k_loso` for each window',
        'recipe `utd_encoder_20k_loso`',
    ),
    'utd_encoder_80k_loso_predictions.csv.gz': (
        'decisions of `utd_encoder_80k_loso` for each window',
        'recipe `utd_encoder_80k_loso`',
    ),
    'utd_scores_leak.csv': (
        'a leak: saved scores teach on the folds they come from, which is refused since',
        'chapter 05c, before 27 November 2026',
    ),
    'utd_taught_video_predictions.csv.gz': (
        'decisions of the students that saved scores taught',
        'chapter 05c: `score_predictions`',
    ),
    'utd_depth_ensembles.csv': ('averages of depth, IMU and skeleton models', 'chapter 04i'),
    'utd_depth_ensembles_dev.csv': ('the same inside the training subjects', 'chapter 04i'),
    'micro_students.json': (
        'flash and memory of the int8 students under TensorFlow Lite Micro, on this machine',
        '`python -m tests.bench_micro`',
    ),
    'bench_explorer.json': ('response time of the explorer', '`python -m tests.bench_explorer`'),
    'run_all.csv': (
        'Run All of each chapter as in JupyterLab: seconds, errors, live figures',
        '`python -m tests.bench_run_all`',
    ),
    'bench_latency.csv': ('conv_80k against the transformer, every format', BENCH),
    'bench_latency.json': ('ratios of bench_latency.csv', BENCH),
    'bench_latency_25k.csv': ('conv_20k against the published transformer', BENCH),
    'bench_latency_25k.json': ('ratios of bench_latency_25k.csv', BENCH),
    'bench_latency_earlier.csv': ('the same on an earlier machine', BENCH),
    'bench_latency_earlier.json': ('ratios of bench_latency_earlier.csv', BENCH),
    'bench_stream.json': ('an hour of movements through the stream', BENCH),
    **{
        f'words_dev_{target}_{text}.csv': (
            f'{title}, k = 0 with an encoder of the development, text encoder {text}',
            WORDS,
        )
        for target, title in (('motionsense', 'MotionSense'), ('hapt', 'HAPT'))
        for text in ('attributes', 'sentences')
    },
    'words_motionsense_attributes.csv': (
        'MotionSense, k = 0 with harkd-base, text encoder attributes',
        WORDS,
    ),
    'utd_stream.csv': (
        'accuracy of the stream, with and without smoothing',
        '`python -m tests.bench_deploy --streamed`',
    ),
}
INTRODUCTION = """# Result files

> Every published figure, with the recipe that made it

A folder holds the files of one theme. Each row of a table carries the hash of its configuration
and of its data; `harkd recipe NAME` repeats it. Files are found by name: `read_results('utd_100k')`
reads `distillation/utd_100k.csv`. [RESULTS.md](../../RESULTS.md) shows the tables.

| file | content |
| --- | --- |
| [ledger.csv](ledger.csv), [ledger_001.csv](ledger_001.csv) | every evaluation of official test \
subjects, the newest page and the one before it |
| [reruns.csv](reruns.csv) | trainings that were repeated from scratch and gave the same figures |
| [demo.txt](demo.txt) | what `make demo` printed |
"""


def recipe_files():
    "File of nbs/results to (what it holds, who wrote it), for files that a recipe writes"
    written = {}
    for path in sorted(RECIPES.rglob('*.json')):
        recipe = json.loads(path.read_text(encoding='utf8'))
        results = recipe['params']['results']
        predictions = recipe['chapter'] == 'significance'
        name = f'{results}_predictions.csv.gz' if predictions else f'{results}.csv'
        written[name] = (recipe['says'], f'recipe `{path.stem}`')
    return written


def rows_of(path):
    "Number of rows of a table; nothing for other files"
    return len(pd.read_csv(path)) if '.csv' in path.suffixes else ''


def theme_section(theme, says, known):
    lines = [f'## {theme}', '', says, '', '| file | rows | content | written by |']
    lines.append('| --- | --- | --- | --- |')
    for path in sorted((RESULTS / theme).iterdir()):
        content, writer = known[path.name]
        link = f'[{path.name}]({theme}/{path.name})'
        lines.append(f'| {link} | {rows_of(path)} | {content} | {writer} |')
    return '\n'.join(lines)


def results_index():
    "The text of nbs/results/README.md"
    known = recipe_files() | WITHOUT_RECIPE
    sections = [theme_section(theme, says, known) for theme, says in THEMES.items()]
    return '\n\n'.join([INTRODUCTION.rstrip(), *sections]) + '\n'


if __name__ == '__main__':
    (RESULTS / 'README.md').write_text(results_index(), encoding='utf8')
