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
    layer = ka.RelativePositionBias(8)
    inputs = np.zeros((1, 2, 3), "float32")
    ka.MultiHeadAttention(2, 3, position=layer)(inputs, inputs)
    model = small_bert(num_layers=1)
    variables = [*model.trainable_variables, *layer.trainable_variables]
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer = ka.fine_tuning_optimizer(1.0, 1, weight_decay=0.5)
    again = type(optimizer).from_config(optimizer.get_config())
    again.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    decayed = {v.path.split("/")[-1] for v in variables if np.array(v).max() < 0.6}
    kept = {v.path.split("/")[-1] for v in variables if np.array(v).min() > 0.9}
    assert decayed == {"kernel", "embeddings"}
    assert kept >= {"bias", "gamma", "beta"}
    assert {np.array(v).max() for v in layer.trainable_variables} == {1.0}


@pytest.mark.parametrize("clip", [None, 0.7])
def test_adamw_has_the_formula_of_the_paper(clip):
    draw = np.random.default_rng(3)
    weight = draw.normal(size=(5, 3))
    variable = keras.Variable(weight, dtype="float32")
    settings = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}
    optimizer = ka.AdamW(0.03, **settings, global_clipnorm=clip)
    mean = square = 0.0
    for step in range(1, 8):
        gradient = draw.normal(size=weight.shape)
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        if clip:
            gradient *= min(1, clip / (np.sqrt((gradient**2).sum()) + 1e-6))
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        weight = weight * (1 - 0.03 * 0.1)
        root = np.sqrt(square / (1 - 0.95**step)) + 1e-3
        weight = weight - 0.03 * mean / (1 - 0.8**step) / root
        np.testing.assert_allclose(variable, weight, atol=1e-6)


def test_a_token_that_was_read_twice_has_one_gradient():
    layer = keras.layers.Embedding(5, 2)
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    ids, target = np.array([[1, 1, 3]]), np.ones((1, 3, 1))
    model(ids)
    dense = keras.Sequential([keras.layers.Dense(2, use_bias=False), model.layers[1]])
    dense(np.eye(5)[ids])
    kernel = dense.layers[0].kernel
    kernel.assign(layer.embeddings)
    start = [np.array(w) for w in model.layers[1].get_weights()]
    for one, inputs in ((model, ids), (dense, np.eye(5, dtype="float32")[ids])):
        model.layers[1].set_weights(start)
        one.compile(ka.AdamW(0.1, global_clipnorm=0.3), loss="mse")
        for _ in range(3):
            one.train_on_batch(inputs, target)
    found = np.array(layer.embeddings), np.array(kernel)
    np.testing.assert_allclose(*found, atol=1e-6)


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
