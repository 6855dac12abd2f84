import keras
import numpy as np
import pytest
from samples import VOCABULARY, small_bert

import keras_attention as ka

TEXTS = ["the animal", "tired!", "the street, the animal", "a", "b c d"]
LABELS = ["red", "green", "red", "green", "green"]


def test_a_schedule_is_the_same_after_its_config():
    schedule = ka.WarmupLinearDecay(3.0, num_steps=13, num_warmup_steps=5)
    again = ka.WarmupLinearDecay.from_config(schedule.get_config())
    assert [float(again(s)) for s in (0, 5, 9, 13, 17)] == [0.0, 3.0, 1.5, 0.0, 0.0]
    with pytest.raises(ValueError, match="num_warmup_steps=7"):
        ka.WarmupLinearDecay(1.0, num_steps=5, num_warmup_steps=7)


def test_only_matrices_have_weight_decay():
    model = small_bert(num_layers=1)
    optimizer = ka.fine_tuning_optimizer(1e-3, 10)
    optimizer.build(model.trainable_variables)
    last = {v.path: v.path.split("/")[-1] for v in model.trainable_variables}
    decayed = {last[v.path] for v in model.weights if optimizer._use_weight_decay(v)}
    kept = {last[v.path] for v in model.weights if not optimizer._use_weight_decay(v)}
    assert decayed == {"kernel", "embeddings"}
    assert kept == {"bias", "gamma", "beta"}
    scheme = keras.Variable(np.zeros((3, 5)), name="relative_position_bias")
    assert optimizer._use_weight_decay(scheme)


def test_an_entity_counts_if_its_words_and_its_type_are_correct():
    expected = [["B-a", "I-a", "O", "B-b", "B-b"], ["I-a", "I-b", "O"]]
    # entities: a 0-1, b 3, b 4; a 0, b 1
    found = [["B-a", "I-a", "O", "B-b", "I-b"], ["B-a", "O", "B-b"]]
    # entities: a 0-1, b 3-4; a 0, b 2
    scores = ka.entity_scores(expected, found)
    assert scores == pytest.approx({"precision": 2 / 4, "recall": 2 / 5, "f1": 4 / 9})
    assert ka.entity_scores([["O"]], [["O"]])["f1"] == 0.0
    with pytest.raises(ValueError, match="of 1 and 2 words"):
        ka.entity_scores([["O"]], [["O", "O"]])


def classifier():
    pytest.importorskip("tensorflow_text")
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    return ka.TextClassifier(
        small_bert(num_layers=1),
        ["red", "green"],
        tokenizer,
        dropout=0.0,
        pooling="mean",
    )


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_frozen_backbone_does_not_change_and_its_head_learns():
    model = classifier()
    before = [np.array(w) for w in model.backbone.weights]
    batches = model.batches(TEXTS, LABELS, batch_size=2)
    history = ka.fine_tune(
        model,
        batches,
        epochs=50,
        learning_rate=0.3,
        validation=batches,
        freeze_backbone=True,
        verbose=False,
    ).history
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    for weight, old in zip(model.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    # What was trained on stored vectors is what the whole model computes.
    loss = model.evaluate(batches, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(history["val_loss"][-1], rel=1e-4)
    assert [one["label"] for one in model.classify(TEXTS)] == LABELS


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_whole_model_learns_and_its_unread_pooler_is_frozen():
    model = classifier()
    before = np.array(model.backbone.blocks[0].feed_forward.intermediate.kernel)
    batches = model.batches(TEXTS, LABELS, batch_size=2)
    history = ka.fine_tune(
        model, batches, epochs=30, learning_rate=3e-3, verbose=False
    ).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    after = np.array(model.backbone.blocks[0].feed_forward.intermediate.kernel)
    assert not np.array_equal(before, after)
    assert not model.backbone.pooler.trainable
