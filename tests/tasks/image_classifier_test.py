import numpy as np
import pytest
from small_models import MODELS, with_random_weights

import keras_attention as ka

LABELS = ["dark", "bright"]
IMAGES = np.random.default_rng(3).normal(size=(5, 8, 8, 3)).astype("float32")


def classifier():
    backbone = with_random_weights(MODELS["vit"]())
    return with_random_weights(ka.ImageClassifier(backbone, LABELS))


def test_scores_are_the_softmax_of_the_first_vectors_logits():
    model = classifier()
    first = np.array(model.backbone(IMAGES)["sequence_output"])[:, 0]
    kernel, bias = (np.array(w) for w in model.head.output_projection.weights)
    exponentials = np.exp((first @ kernel + bias).astype("float64"))
    expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
    for answer, scores in zip(
        model.classify(IMAGES, batch_size=2), expected, strict=True
    ):
        np.testing.assert_allclose([*answer["scores"].values()], scores, atol=1e-5)
        assert answer["label"] == LABELS[scores.argmax()]
        assert answer["score"] == max(answer["scores"].values())
    assert model.classify(IMAGES[:0]) == []


def test_batches_have_every_image_and_its_label():
    model = classifier()
    labels = ["dark", 1, 0, "bright", "dark"]
    batches = model.batches(IMAGES, labels, batch_size=2, shuffle=False)
    pairs = [batches[index] for index in range(batches.num_batches)]
    images, targets = zip(*pairs, strict=True)
    np.testing.assert_array_equal(np.concatenate(images), IMAGES)
    assert np.concatenate(targets).tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"same length.*Received: 5 images, 1 labels"):
        model.batches(IMAGES, ["dark"])
    with pytest.raises(ValueError, match="Received: 'grey'"):
        model.batches(IMAGES[:1], ["grey"])


@pytest.mark.parametrize("freeze", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_learns_which_images_are_bright(freeze):
    brightness = np.array([0, 3] * 8)[:, None, None, None]
    images = np.random.default_rng(3).normal(size=(16, 8, 8, 3)) + brightness
    model, labels = classifier(), LABELS * 8
    assert not model.backbone.pooler.trainable  # the head does not read it
    batches = model.batches(images.astype("float32"), labels, batch_size=4)
    history = ka.fine_tune(
        model,
        batches,
        epochs=30,
        learning_rate=0.1 if freeze else 3e-3,
        freeze_backbone=freeze,
        verbose=False,
    ).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    found = [answer["label"] for answer in model.classify(images.astype("float32"))]
    assert found == labels
