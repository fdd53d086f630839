"An encoder is found by its folder, or by its name among those that come with harkd (chapter 03b)"

import pytest
import torch

from harkd.encoder import WearableEncoder
from harkd.pretrained import load_encoder, save_encoder, shipped_encoders
from harkd.runs import DamagedFile, write_description


def small_encoder(dim=8):
    torch.manual_seed(0)
    return WearableEncoder(dim, (1,))


def test_a_saved_encoder_is_read_in_half_precision_with_what_was_said_of_it(tmp_path):
    encoder = small_encoder()
    load = load_encoder(save_encoder(encoder, tmp_path / 'e', trained_on={'spar': ['s1']}))
    again, about = load
    assert about['config'] == encoder.config and about['trained_on'] == {'spar': ['s1']}
    assert not again.training
    for name, values in again.state_dict().items():
        assert torch.equal(values, encoder.state_dict()[name].half().to(values.dtype))


def test_a_folder_goes_before_a_shipped_encoder_of_the_same_name(tmp_path, monkeypatch):
    (name,) = shipped_encoders()
    shipped, _ = load_encoder(name)
    monkeypatch.chdir(tmp_path)
    save_encoder(small_encoder(), name)
    own, _ = load_encoder(name)
    assert own.config['dim'] == 8 != shipped.config['dim']


def test_an_encoder_that_is_nowhere_is_asked_for_where_it_was_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/nowhere/encoder.json.* is missing'):
        load_encoder(tmp_path / 'nowhere')


def test_a_description_of_another_encoder_is_refused(tmp_path):
    save_encoder(small_encoder(), tmp_path)
    file = tmp_path / 'encoder.safetensors'
    for config in (small_encoder(16).config, {'width': 8}):
        write_description(tmp_path / 'encoder.json', {'config': config}, file)
        with pytest.raises(DamagedFile, match='encoder.json and its weights do not fit'):
            load_encoder(tmp_path)
