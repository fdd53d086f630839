"Words as labels (chapter 06a): what a head may know, and the reference's loss"

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from harkd.data import DATASETS
from harkd.language import (
    ATTRIBUTES,
    CONCEPTS,
    CONTROLS,
    AttributeText,
    HeadConfig,
    LabelledEmbeddings,
    WordsConfig,
    _attributes,
    alignment_loss,
    concept_of,
    group_targets,
    judge_embeddings,
    judge_words,
    make_text_encoder,
    nearest_concept,
    seen_classes,
    soft_text_targets,
    subject_scores,
    train_head,
    word_results,
    zero_shot,
)
from harkd.runs import hash_config, processor

GOLDEN = np.load(Path(__file__).parent / 'golden' / 'losses.npz')
UNNAMED = {'sessions', 'physical_therapy', 'sisfall', 'mm_fit'}  # codes, gym exercises


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name])).float()


def golden_number(name):
    return float(GOLDEN[name].item())


def test_the_loss_is_that_of_the_reference():
    motion, text, frozen = golden('in_zi'), golden('in_zt'), golden('in_zf')
    queues = golden('in_qi'), golden('in_qt')
    hard = alignment_loss(motion, text, torch.eye(len(motion)))
    half = alignment_loss(motion, text, soft_text_targets(text, 0.5))
    queued = alignment_loss(motion, text, soft_text_targets(frozen), 0.07, *queues)
    assert float(hard) == pytest.approx(golden_number('out_TSFM_InfoNCE_hard_t.07'), abs=1e-4)
    assert float(half) == pytest.approx(golden_number('out_TSFM_InfoNCE_soft_w.5_T.5'), abs=1e-4)
    wanted = golden_number('out_TSFM_InfoNCE_soft_w1_T.5_frozen_queue')
    assert float(queued) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize('name', sorted(set(DATASETS) - UNNAMED))
def test_every_class_of_a_named_data_set_is_a_concept(name):
    for label in DATASETS[name].classes:
        assert concept_of(label, name).sentence


def test_attributes_are_fractions_and_tell_the_concepts_apart():
    table = np.array([c.attributes for c in CONCEPTS.values()])
    assert table.shape[1] == len(ATTRIBUTES) and table.min() >= 0 and table.max() <= 1
    assert table.any(0).all()
    same = [
        n
        for n in CONCEPTS
        if sum(c.attributes == CONCEPTS[n].attributes for c in CONCEPTS.values()) > 1
    ]
    assert set(same) <= {
        'sitting',
        'watching television',
        'swiping to the left',
        'swiping to the right',
        'drawing an x',
        'drawing a triangle',
        'turning the forearm inwards',
        'turning the forearm outwards',
    }


def test_no_name_stands_for_two_concepts():
    names = [a for c in CONCEPTS.values() for a in c.aliases]
    assert len(names) == len(set(names))
    assert not set(names) & set(CONCEPTS) - {
        a for c in CONCEPTS.values() for a in c.aliases if a == c.name
    }


def part(dataset, labels, rng, count=40):
    rows = np.repeat([concept_of(n, dataset).attributes for n in labels], count, 0)
    z = rows + 0.2 * rng.normal(size=rows.shape)
    subjects = np.tile(['s1', 's2'], len(z) // 2)
    return LabelledEmbeddings(dataset, 'imu', z, np.repeat(labels, count), subjects)


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    return [
        part('dsads', ['sitting', 'standing', 'lying_back', 'ascending_stairs', 'rowing'], rng),
        part('wisdm', ['walking', 'jogging', 'typing', 'clapping', 'kicking'], rng),
    ]


QUICK = HeadConfig(steps=200, batch_size=64)


def test_seen_concepts_are_found_under_other_names(parts):
    text = AttributeText()
    judged = part(
        'motionsense', ['walking', 'jogging', 'sitting', 'upstairs'], np.random.default_rng(1)
    )
    classes = list(dict.fromkeys(judged.labels))
    guess = zero_shot(train_head(parts, text, QUICK), judged.z, text(classes, 'motionsense'))
    assert (guess == np.repeat(range(4), 40)).mean() > 0.9
    assert seen_classes(classes, 'motionsense', parts) == [True] * 4
    assert seen_classes(['downstairs'], 'motionsense', parts) == [False]


def test_the_head_never_depends_on_the_labels_of_the_target(parts):
    "The same windows under other labels: the same head, bit for bit, and the same predictions"
    text, rng = AttributeText(), np.random.default_rng(2)
    judged = part('motionsense', ['walking', 'sitting'], rng)
    renamed = LabelledEmbeddings(
        'motionsense', 'imu', judged.z, judged.labels[::-1].copy(), judged.subjects
    )
    cfg = WordsConfig(target='motionsense', seeds=1, steps=50)
    found = [
        judge_embeddings(cfg, {'bands': parts}, {'bands': each}).query("arm == 'bands'")
        for each in (judged, renamed)
    ]
    one, other = (float(f.accuracy.mean()) for f in found)
    assert one + other == pytest.approx(1.0)  # two classes: what was right is now wrong
    heads = [train_head(parts, text, QUICK).state_dict() for _ in range(2)]
    assert all(torch.equal(heads[0][k], heads[1][k]) for k in heads[0])


def test_the_target_and_its_subjects_are_kept_out_of_the_sources():
    cfg = WordsConfig(target='uci_har', sources='hapt,uci_har,dsads')
    assert cfg.training_sets == ['dsads']


def test_an_encoder_that_saw_the_target_is_refused(tmp_path):
    from harkd.encoder import WearableEncoder
    from harkd.pretrained import save_encoder

    save_encoder(WearableEncoder(dim=16), tmp_path, trained_on={'spar': ['s1']})
    with pytest.raises(ValueError, match="'spar' has the subjects of 'spar'"):
        judge_words(WordsConfig(target='spar', sources='synth', encoder=str(tmp_path)))


def test_seen_and_unseen_classes_are_scored_apart():
    y, guess = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0])
    (row,) = subject_scores(y, guess, np.array(['s1'] * 4), [True, False])
    assert row['seen_f1'] == pytest.approx(2 / 3) and row['unseen_f1'] == 0
    assert row['macro_f1'] == pytest.approx(1 / 3)
    (only,) = subject_scores(y[:2], guess[:2], np.array(['s1'] * 2), [True, False])
    assert np.isnan(only['unseen_f1'])


def test_targets_share_the_weight_among_equals():
    groups = torch.tensor([3, 3, 5])
    assert group_targets(groups, groups).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    text = F.normalize(torch.randn(5, 4), dim=1)
    assert torch.equal(soft_text_targets(text, 0.0), torch.eye(5))


@pytest.mark.parametrize('cosine, spread', [(0.99, 0.1), (-0.6, None)])
def test_texts_that_are_nearly_one_share_the_weight_though_their_spread_is_small(cosine, spread):
    text = torch.tensor([[2.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]])
    spread = spread or np.std([1, 1, cosine, cosine], ddof=1)
    own = 1 / (1 + np.exp(-(1 - cosine) / spread / 0.5))
    np.testing.assert_allclose(soft_text_targets(text), [[own, 1 - own], [1 - own, own]], rtol=1e-5)
    half = soft_text_targets(text, 0.5)[0, 0]
    assert float(half) == pytest.approx((1 + own) / 2)


def test_the_nearest_concept_needs_no_network(parts):
    text = AttributeText()
    judged = part('motionsense', ['walking', 'sitting'], np.random.default_rng(3))
    guess = nearest_concept(parts, text, judged.z, text(['walking', 'sitting']))
    assert (guess == np.repeat([0, 1], 40)).mean() > 0.9


@pytest.mark.parametrize(
    'chosen, named',
    [
        (dict(), dict(experiment='words', modality='pocket')),
        (dict(results='named', stream='belt'), dict(experiment='named', modality='belt')),
    ],
)
def test_a_result_row_says_what_was_judged(chosen, named):
    scored = dict(n=9, accuracy=0.5, macro_f1=0.4, seen_f1=0.6, unseen_f1=0.2)
    rows = pd.DataFrame([dict(arm='bands', seed=1, subject='s1', **scored)])
    cfg = WordsConfig(text='sentences', **chosen)
    row = word_results(rows, cfg, 'hash').iloc[0].to_dict()
    about = dict(dataset='motionsense', protocol='leave_data_set_out', part='test', fold='s1')
    about |= dict(model=CONTROLS['bands'], arm='bands', seed=1, method='k=0, sentences')
    about |= dict(config_hash=hash_config(cfg), data_hash='hash', device=processor())
    assert row == about | scored | named


def test_unknown_names_are_refused_with_near_ones():
    with pytest.raises(ValueError, match="no concept for the label 'walkng'; near names: walking"):
        concept_of('walkng')
    with pytest.raises(ValueError, match="choose 'attributes' or 'sentences'"):
        make_text_encoder('word2vec')


def test_a_misspelt_attribute_of_a_concept_is_refused():
    assert sum(_attributes('upright arms:.5')) == 1.5
    with pytest.raises(ValueError, match='unknown attributes: armz, leggs'):
        _attributes('upright leggs armz:.5')
