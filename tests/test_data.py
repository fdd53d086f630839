"Recordings and data sets: what is rejected, and where files are looked for (chapter 00)"

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harkd.data import (
    DATASETS,
    BadRecording,
    DatasetCard,
    Recording,
    Span,
    Stream,
    channel_color,
    check_recording,
    data_root,
    dataset_card,
    find_function,
    hash_recordings,
    load_dataset,
)

WATCH = Stream(
    values=np.arange(10.0).reshape(5, 2),
    time=np.array([0.0, 0.02, 0.05, 0.06, 0.08]),
    channels=('acc_x', 'acc_y'),
    units=('m/s²',),
    placement='left wrist',
)
VIDEO = Stream(lambda: np.zeros((3, 7, 11)), span=(0.0, 1.0), units=('mm',), placement='camera')
REC = Recording(
    's1_clap_1', 's1', 'toy', {'watch': WATCH, 'depth': VIDEO}, (Span('clap', 0, 0.08),)
)


def test_the_samples_of_a_video_are_spread_evenly_over_its_span():
    values, time = VIDEO.read()
    assert values.shape == (3, 7, 11)
    assert time.tolist() == [0.0, 0.5, 1.0]


def test_a_recording_lasts_as_long_as_its_longest_stream():
    assert REC.duration == 1.0
    assert replace(REC, streams={'watch': WATCH}).duration == 0.08


@pytest.mark.parametrize(
    'change, message',
    [
        ({'values': np.zeros(5)}, r'has shape \(5,\), expected \(t,c\) with t > 0'),
        ({'values': np.zeros((0, 2))}, r'has shape \(0, 2\), expected'),
        ({'time': WATCH.time[:4]}, 'has 5 samples but 4 times'),
        ({'time': WATCH.time[::-1]}, 'runs backwards in time'),
        ({'channels': ('x',)}, 'has 2 channels but 1 names'),
        ({'units': ('m/s²',) * 3}, 'has 2 channels but 3 units'),
    ],
)
def test_a_stream_that_breaks_a_rule_is_rejected_by_name(change, message):
    rec = replace(REC, streams={'watch': replace(WATCH, **change)})
    with pytest.raises(BadRecording, match=f"^toy s1_clap_1: stream 'watch' {message}"):
        check_recording(rec)


@pytest.mark.parametrize(
    'spans, message',
    [
        ((Span('clap', 1.0, 1.0),), 'is empty'),
        ((Span('clap', 0.0, 2.0), Span('clap', 1.0, 3.0)), 'starts before'),
    ],
)
def test_spans_that_are_empty_or_overlap_are_rejected(spans, message):
    with pytest.raises(BadRecording, match=message):
        check_recording(replace(REC, spans=spans))


def test_a_valid_recording_is_returned_and_one_without_streams_is_rejected():
    assert check_recording(REC) is REC
    with pytest.raises(BadRecording, match='toy s1_clap_1: has no streams'):
        check_recording(replace(REC, streams={}))


def test_cards_are_consistent():
    assert all(isinstance(card, DatasetCard) for card in DATASETS.values())
    utd = dataset_card('utd_mhad')
    assert len(utd.classes) == 27
    assert not set(utd.train_subjects) & set(utd.test_subjects)


def test_functions_outside_harkd_cannot_be_named():
    for path in ('os.path:join', 'os:', ':system', 'data', 'data:__class__.x'):
        with pytest.raises(ValueError, match="is not a 'module:function' of harkd"):
            find_function(path)
    assert find_function('data:dataset_card') is dataset_card


def test_the_error_for_missing_files_says_what_to_do(tmp_path, monkeypatch):
    utd = dataset_card('utd_mhad')
    assert (data_root(dataset_card('spar')) / 'watch_dataset.npy').exists()
    with pytest.raises(FileNotFoundError, match='is empty. Get it from: the Inertial and Skeleton'):
        data_root(utd, tmp_path)
    with pytest.raises(FileNotFoundError, match='is not a folder.*HARKD_DATA'):
        data_root(utd, Path(tmp_path) / 'missing')
    monkeypatch.delenv('HARKD_DATA', raising=False)
    with pytest.raises(FileNotFoundError, match='no folder given'):
        data_root(utd)


def test_a_data_set_is_found_below_the_environment_variable(tmp_path, monkeypatch):
    (tmp_path / 'utd_mhad/Inertial').mkdir(parents=True)
    monkeypatch.setenv('HARKD_DATA', str(tmp_path))
    assert data_root(dataset_card('utd_mhad')) == tmp_path / 'utd_mhad'


def test_the_hash_moves_with_any_sample():
    rec = load_dataset('spar').recordings[0]
    imu = rec.streams['imu']
    nudged = replace(rec, streams={'imu': replace(imu, values=imu.values + 1e-9)})
    assert hash_recordings([rec]) == hash_recordings([replace(rec)])
    assert hash_recordings([rec]) != hash_recordings([nudged])


def test_spar_keeps_its_hash():
    "Every published result on SPAR names this data hash"
    assert load_dataset('spar').hash == '83244c2931f2'


def test_duplicate_ids_and_unknown_labels_are_rejected(monkeypatch):
    monkeypatch.setattr('harkd.synth.read_synth', lambda root: [REC, REC])
    with pytest.raises(BadRecording, match=r"synth: labels \['clap'\] are not among the classes"):
        load_dataset('synth')
    wave = replace(REC, spans=(Span('wave', 0.0, 0.08),))
    monkeypatch.setattr('harkd.synth.read_synth', lambda root: [wave, wave])
    with pytest.raises(BadRecording, match="recording ids are not unique, e.g. 's1_clap_1'"):
        load_dataset('synth')


def test_channels_of_one_axis_share_a_colour():
    assert channel_color('gyro_y') == channel_color('acc_y')
    assert channel_color('acc_x') != channel_color('acc_z')
