"Windows of recordings that lack a channel, and of streams that start at different times"

from dataclasses import replace

import numpy as np
import pytest
import torch

import harkd.preprocess as preprocess
from harkd.data import DATASETS, Dataset, Recording, Span, Stream
from harkd.preprocess import Normalizer, cut_windows
from harkd.split import BatchLoader, by_subject

SENSORS = tuple(f'{s}_{a}' for s in ('acc', 'gyro') for a in 'xyz')


def stream(channels, start=0.0, seconds=6.0, fs=50.0, fill=None):
    "Channel k is k + 1 + the time in seconds, so that a sample says when it was taken"
    time = start + np.arange(round(seconds * fs)) / fs
    values = time[:, None] + np.arange(1, len(channels) + 1) if fill is None else fill(time)
    units = tuple('m/s²' if c.startswith('acc') else 'rad/s' for c in channels)
    return Stream(values, time, tuple(channels), units, 'wrist')


def dataset(*recordings):
    "(subject, streams) each; one label over everything"
    made = [
        Recording(f'r{k}', subject, 'toy', streams, (Span('wave', 0.0, 60.0),))
        for k, (subject, streams) in enumerate(recordings)
    ]
    card = replace(DATASETS['synth'], name='toy', classes=('wave',), fs=50.0, whole=False)
    return Dataset(replace(card, window_s=1.0, stride_s=1.0, length={}), made, 'toy')


@pytest.fixture(scope='module')
def partial_windows():
    "The second subject's sensor has no gyroscope, the third's lacks one axis of it"
    data = dataset(
        ('s1', {'imu': stream(SENSORS)}),
        ('s2', {'imu': stream(SENSORS[:3])}),
        ('s3', {'imu': stream(SENSORS[:5])}),
    )
    return cut_windows(data, ('imu', 'imu:gyro+norm', 'imu:acc+norm+duration'))


def first_of(windows, subject):
    return windows.table.query(f"subject == '{subject}'").index[:1].to_numpy()


def test_a_channel_that_was_not_measured_is_masked_and_zero(partial_windows):
    w = partial_windows
    expected = {
        's1': [True] * 6,
        's2': [True] * 3 + [False] * 3,
        's3': [True] * 5 + [False],
    }
    for subject, mask in expected.items():
        batch = w.batch(first_of(w, subject))
        assert batch.mask['imu'][0].tolist() == mask
        assert (batch.x['imu'][0, 0] != 0).tolist() == mask


def test_a_magnitude_is_measured_where_all_its_axes_are(partial_windows):
    w = partial_windows
    assert w.channels('imu:gyro+norm') == ('gyro_x', 'gyro_y', 'gyro_z', 'gyro_norm')
    masks = [w.batch(first_of(w, s)).mask['imu:gyro+norm'][0].tolist() for s in ('s1', 's2', 's3')]
    assert masks == [[True] * 4, [False] * 4, [True, True, False, False]]
    masks = w.batch(first_of(w, 's2')).mask['imu:acc+norm+duration'][0]
    assert masks.tolist() == [True] * 5


@pytest.mark.parametrize('at_once', [10**6, 8])
def test_statistics_are_those_of_what_was_measured(partial_windows, monkeypatch, at_once):
    w = partial_windows
    monkeypatch.setattr(preprocess, '_AT_ONCE', at_once)
    norm = Normalizer.fit(w, np.arange(len(w)))
    for channel, subjects in ((0, ('s1', 's2', 's3')), (3, ('s1', 's3')), (5, ('s1',))):
        ids = w.table[w.table.subject.isin(subjects)].index.to_numpy()
        x = w.batch(ids).x['imu'][..., channel].double()
        assert norm.mean['imu'][channel] == pytest.approx(float(x.mean()))
        assert norm.std['imu'][channel] == pytest.approx(float(x.std(correction=0)))
    gone = Normalizer.fit(w, w.table.query("subject == 's2'").index.to_numpy())
    assert gone.mean['imu'][3:] == [0.0] * 3 and gone.std['imu'][3:] == [1.0] * 3


def test_a_loader_leaves_masked_channels_at_zero(partial_windows):
    loader = BatchLoader.fit(by_subject(partial_windows, ['s1'], ['s2', 's3']), batch_size=4)
    for batch in loader.eval_batches(loader.split.val):
        x, mask = batch.x['imu'], batch.mask['imu']
        assert (x.abs().amax(1) > 0).tolist() == mask.tolist()
        assert (x * ~mask[:, None]).abs().max() == 0
    train = loader.train(0, 0)
    assert train.mask['imu'].all() and (train.x['imu'].abs().amax(1) > 0).all()


@pytest.mark.parametrize('late', [0.0, 1.3, 2.507])
def test_streams_that_start_apart_are_read_at_the_same_times(late):
    "Both streams say the time: their windows must agree, and lie where both were there"
    early, other = stream(('acc_x',), 0.0, 8.0), stream(('acc_x',), late, 9.0 - late, 31.0)
    data = dataset(('s1', {'imu': early, 'belt': other}))
    w = cut_windows(data, ('imu', 'belt'))
    batch = w.batch(np.arange(len(w)))
    assert len(w) == int(8.0 - late)
    start = w.table.start.to_numpy()
    assert start.min() >= late - 1e-9 and w.table.stop.max() <= 8.0
    times = start[:, None] + np.arange(50) / 50
    for name in ('imu', 'belt'):
        np.testing.assert_allclose(batch.x[name][..., 0] - 1, times, atol=1e-4)


def test_a_clock_that_does_not_start_at_zero_is_kept():
    "Spans and windows count from the recording's clock, not from its first sample"
    data = dataset(('s1', {'imu': stream(SENSORS, 100.0)}))
    rec = replace(data.recordings[0], spans=(Span('wave', 102.0, 104.0),))
    w = cut_windows(replace(data, recordings=[rec]), ('imu',))
    assert w.table.start.tolist() == pytest.approx([102.0, 103.0])
    assert torch.allclose(w.batch([0]).x['imu'][0, 0, 0], torch.tensor(103.0))


def test_streams_without_common_time_say_both_times():
    apart = {'imu': stream(SENSORS), 'belt': stream(SENSORS, 20.0)}
    data = dataset(('s1', apart), ('s2', {name: stream(SENSORS) for name in apart}))
    w = cut_windows(data, ('imu', 'belt'), missing='report')
    assert set(w.table.subject) == {'s2'}
    why = "its streams have no time in common ('imu' 0 to 5.98 s, 'belt' 20 to 25.98 s)"
    assert w.report['lost'] == [{'recording': 'r0', 'subject': 's1', 'why': why}]


def test_a_recording_shorter_than_a_window_says_both_lengths():
    short = dataset(('s1', {'imu': stream(SENSORS)}), ('s2', {'imu': stream(SENSORS, 0.0, 0.6)}))
    w = cut_windows(short, ('imu',), missing='report')
    assert w.report['lost'][0]['why'] == 'it lasts 0.6 s, a window 1 s'


@pytest.mark.parametrize(
    'spans, why',
    [
        ((), 'it has no label'),
        ((Span('wave', 0.0, 0.3),), 'no label lasts long enough'),
    ],
)
def test_a_recording_without_a_window_says_why(spans, why):
    data = dataset(('s1', {'imu': stream(SENSORS)}), ('s2', {'imu': stream(SENSORS)}))
    recordings = [replace(data.recordings[0], spans=spans), data.recordings[1]]
    w = cut_windows(replace(data, recordings=recordings), ('imu',), missing='report')
    assert [row['why'] for row in w.report['lost']] == [why]


def test_gaps_of_missing_values_are_pairs_of_times_also_where_there_are_none():
    time, x = np.arange(100) / 50, np.zeros((100, 3))
    assert preprocess.missing_gaps(x, time).shape == (0, 2)
    x[20:60, 1] = np.nan
    assert preprocess.missing_gaps(x, time).tolist() == [[19 / 50, 60 / 50]]
    assert preprocess.missing_gaps(x, time, longest=1.0).shape == (0, 2)


def test_of_a_long_pause_only_the_rows_beside_it_are_stored():
    "Each side needs the row before and the row after its last and first sample"
    time = np.r_[np.arange(51), np.arange(500, 551)] / 50
    stretches, pauses = preprocess._stored_rows(time, 50.0, 0.5)
    assert [(int(s[0]), int(s[-1])) for s in stretches] == [(0, 51), (499, 550)]
    assert pauses.tolist() == [[52, 499 - 52]]


def test_the_first_and_the_last_row_of_each_stretch_are_low_passed():
    "As if each stretch held its ends for longer: noise at 200 Hz, to 50 Hz, with a pause"
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(81, 2)), rng.normal(size=(121, 2))]
    time = np.r_[np.arange(81), np.arange(400, 521)] / 200
    rows = preprocess.downsample(np.concatenate(parts), time, 50.0)
    held = [np.pad(x, ((80, 80), (0, 0)), 'edge') for x in parts]
    alone = [preprocess.downsample(x, np.arange(len(x)) / 200, 50.0)[20:-20] for x in held]
    assert len(rows) == 131
    np.testing.assert_allclose(rows[:21], alone[0], atol=1e-9)
    np.testing.assert_allclose(rows[100:], alone[1], atol=1e-9)
    between = preprocess.even_grid(np.concatenate(parts), time, 50.0)
    np.testing.assert_array_equal(rows[21:100], between[21:100])
