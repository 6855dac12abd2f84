import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy, weights_that_are_copies

import keras_attention as ka

IMAGES = np.random.default_rng(1).normal(size=(2, 6, 15, 7)).astype("float32")


def vit(**kwargs):
    sizes = {"image_size": (6, 15), "patch_size": (2, 5), "num_channels": 7}
    sizes |= {"num_layers": 2, "num_heads": 2, "hidden_dim": 6, "intermediate_dim": 11}
    model = ka.VisionTransformer(**{**sizes, **kwargs})
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


def test_outputs_have_their_shapes_and_names():
    shapes = {name: tuple(x.shape) for name, x in vit()(IMAGES).items()}
    assert shapes == {"sequence_output": (2, 10, 6), "pooled_output": (2, 6)}
    assert list(vit(pooler=False)({"images": IMAGES})) == ["sequence_output"]


def test_patches_are_a_convolution_row_by_row():
    layer = ka.PatchEmbedding((2, 5), 3)
    patches = to_numpy(layer(IMAGES))
    kernel = to_numpy(layer.projection.kernel).reshape(2, 5, 7, 3)
    expected = keras.ops.conv(IMAGES, kernel, strides=(2, 5))
    assert relative_error(patches, np.reshape(expected, (2, 9, 3))) <= 1e-5


def test_the_class_token_comes_first_and_each_patch_has_its_position():
    model = vit(num_layers=0)
    embedded = to_numpy(model.patch_embedding(IMAGES))
    token = np.broadcast_to(to_numpy(model.class_token), (2, 1, 6))
    table = to_numpy(model.position_embedding.embeddings)
    expected = np.concatenate([token, embedded], axis=1) + table
    mean = expected.mean(-1, keepdims=True)
    expected = (expected - mean) / np.sqrt(expected.var(-1, keepdims=True) + 1e-12)
    assert relative_error(model(IMAGES)["sequence_output"], expected) <= 1e-5


@pytest.mark.parametrize(
    "images",
    [IMAGES[0], IMAGES[:, :4], {"pixels": IMAGES}, IMAGES.transpose(0, 3, 1, 2)],
    ids=["rank", "size", "name", "channels first"],
)
def test_wrong_images_are_refused(images):
    with pytest.raises(ValueError, match=r"`images`.*Received: "):
        vit()(images)


def test_patches_must_divide_the_images():
    with pytest.raises(ValueError, match=r"multiples of the patch's.*Received: "):
        vit(image_size=(7, 15))


def test_saving_and_loading_changes_no_bit(tmp_path):
    model = vit(activation="gelu_tanh")
    expected = to_numpy(model(IMAGES))
    model.save(tmp_path / "vit.keras")
    loaded = keras.models.load_model(tmp_path / "vit.keras")
    for name, output in loaded(IMAGES).items():
        assert np.array_equal(output, expected[name])
    assert loaded.get_config() == model.get_config()


def test_no_weight_starts_as_a_copy_of_another():
    model = ka.VisionTransformer(8, 4, 2, 2, 6, intermediate_dim=11)
    assert weights_that_are_copies(model) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_learns_which_quarter_is_bright():
    rng = np.random.default_rng(1)
    places = rng.integers(0, 4, 256)
    images = rng.normal(size=(256, 8, 8, 1)).astype("float32") * 0.3
    for image, place in zip(images, places, strict=True):
        top, left = divmod(place, 2)
        image[4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 1.0
    encoder = ka.VisionTransformer(8, 4, 1, 2, 16, intermediate_dim=32, num_channels=1)
    inputs = keras.Input((8, 8, 1))
    logits = keras.layers.Dense(4)(encoder(inputs)["pooled_output"])
    model = keras.Model(inputs, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    history = model.fit(images, places, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.05
