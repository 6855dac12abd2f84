"""Triplets and shortened vectors: the losses are those of a loop over the formulas."""

import keras
import numpy as np
import pytest

import keras_attention as ka

TEXTS = ["a b", "c", "b b a", "a", "c c", "b"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]


def encoder():
    keras.utils.set_random_seed(0)
    backbone = ka.BertEncoder(
        vocabulary_size=len(TOKENS),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.0,
        pooler=False,
    )
    return ka.SentenceEncoder(backbone, ka.WordPieceTokenizer(TOKENS))


def triplets(num_groups=4, size=6):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3 * num_groups, size)).astype("float32")
    rows = np.arange(3 * num_groups)
    return np.stack([rows // 3, rows % 3], 1).astype("float32"), vectors


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_loss_of_triplets_is_that_of_the_formula(distance):
    targets, vectors = triplets()

    def between(x, y):
        if distance == "euclidean":
            return np.linalg.norm(x - y)
        return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    groups = vectors.astype("float64").reshape(4, 3, -1)
    losses = [max(0.0, between(a, p) - between(a, n) + 0.5) for a, p, n in groups]
    found = ka.TripletLoss(0.5, distance)(targets, vectors)

    assert float(found) == pytest.approx(np.mean(losses), abs=1e-6)


def test_equal_texts_have_finite_gradients():
    import tensorflow as tf

    targets, vectors = triplets(1)
    vectors = tf.Variable(np.repeat(vectors[:1], 3, axis=0))
    with tf.GradientTape() as tape:
        loss = ka.TripletLoss(distance="euclidean")(targets, vectors)
    assert np.isfinite(tape.gradient(loss, vectors).numpy()).all()


def test_the_loss_of_shortened_vectors_is_the_sum_of_those_of_all_lengths():
    targets, vectors = triplets()
    inner = ka.MultipleNegativesRanking()
    found = ka.MatryoshkaLoss(inner, [6, 2], [1.0, 0.5])(targets, vectors)
    expected = inner(targets, vectors) + 0.5 * inner(targets, vectors[:, :2])

    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_losses_are_saved_with_their_settings():
    loss = ka.MatryoshkaLoss(ka.TripletLoss(0.7, "euclidean"), [6, 3])
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    targets, vectors = triplets()

    assert float(again(targets, vectors)) == float(loss(targets, vectors))


def test_wrong_settings_are_refused():
    targets, vectors = triplets()
    with pytest.raises(ValueError, match="`distance` must be"):
        ka.TripletLoss(distance="l1")
    with pytest.raises(ValueError, match="one weight for each"):
        ka.MatryoshkaLoss(ka.TripletLoss(), [4], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"from 1 to 6.*lengths=\[8\]"):
        ka.MatryoshkaLoss(ka.TripletLoss(), [8])(targets, vectors)


@pytest.mark.parametrize("loss", [None, "triplets", "lengths"])
def test_an_encoder_learns_triplets(loss):
    model = encoder()
    losses = {
        "triplets": ka.TripletLoss(),
        "lengths": ka.MatryoshkaLoss(ka.MultipleNegativesRanking(), [8, 4]),
    }
    groups = {"texts": TEXTS[:2], "texts_pair": TEXTS[2:4], "negatives": TEXTS[4:]}
    batches = model.batches(**groups, batch_size=2)
    assert batches[0][0]["token_ids"].shape[0] == 6
    history = ka.fine_tune(
        model,
        batches,
        loss=losses.get(loss),
        epochs=12,
        learning_rate=1e-2,
        verbose=False,
    )
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]


def test_triplets_have_no_scores():
    with pytest.raises(ValueError, match="Triplets have no scores"):
        encoder().batches(["a"], ["b"], [1.0], negatives=["c"])
