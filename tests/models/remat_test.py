"""`remat=True` changes the memory of a training, and not its numbers."""

import keras
import numpy as np
import pytest
from backends import derivatives

import keras_attention as ka

IDS = np.array([[3, 4, 5, 6, 7], [9, 8, 7, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
SIZES = (13, 2, 2, 8, 16)
PAIR = {
    "encoder_token_ids": IDS,
    "encoder_padding_mask": MASK,
    "decoder_token_ids": IDS[:, :3],
}
ONE = {"token_ids": IDS, "padding_mask": MASK}
VIT = {
    "image_size": 6,
    "patch_size": 3,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
LLAMA = {"position": "rotary", "normalization": "rms", "gated": True, "head": None}
MODELS = {
    "bert": (lambda **s: ka.BertEncoder(*SIZES, **s), ONE),
    "gpt": (lambda **s: ka.GPTDecoder(*SIZES, **s), ONE),
    "llama": (lambda **s: ka.GPTDecoder(*SIZES, **LLAMA, **s), ONE),
    "seq2seq": (lambda **s: ka.Seq2SeqTransformer(*SIZES, **s), PAIR),
    "t5": (lambda **s: ka.T5EncoderDecoder(*SIZES, head_dim=4, **s), PAIR),
    "t5 encoder": (lambda **s: ka.T5Encoder(*SIZES, head_dim=4, **s), ONE),
    "vit": (
        lambda **s: ka.VisionTransformer(**VIT, **s),
        np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32"),
    ),
}


def both(make, **settings):
    """A model without and one with `remat`, of equal weights and seeds of dropout."""
    models = []
    for remat in (False, True):
        keras.utils.set_random_seed(4)
        models.append(make(dropout=0.3, remat=remat, **settings))
    for ours, theirs in zip(models[1].variables, models[0].variables, strict=True):
        ours.assign(theirs)
    return models


def sum_of_squares(outputs):
    return sum(keras.ops.sum(x**2) for x in keras.tree.flatten(outputs))


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_the_same(name):
    make, inputs = MODELS[name]
    found = []
    for model in both(make):
        variables = model.trainable_variables

        def run(model=model):
            outputs = model(inputs, training=True)
            loss = sum_of_squares(outputs) / 100
            return loss, {"loss": loss, **outputs}

        keras.utils.set_random_seed(5)  # torch draws dropout from its own generator
        outputs, gradients = derivatives(run, [], variables)
        found.append([*keras.tree.flatten(outputs), *gradients])
        assert any(gradient.any() for gradient in gradients)
    for plain, again in zip(*found, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fit_has_the_same_losses_weights_and_seeds(policy):
    make, inputs = MODELS["bert"]
    tasks = [
        ka.TextClassifier(model, ["a", "b"], dropout=0.0)
        for model in both(make, dtype=policy)
    ]
    tasks[1].set_weights(tasks[0].get_weights())
    losses = []
    for task in tasks:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        task.compile(keras.optimizers.SGD(0.1), loss=loss)
        keras.utils.set_random_seed(5)
        history = task.fit(inputs, np.array([0, 1]), epochs=3, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert len(set(losses[0])) == 3
    pairs = zip(tasks[1].variables, tasks[0].variables, strict=True)
    for again, plain in pairs:
        np.testing.assert_allclose(again, plain, rtol=1e-6, atol=1e-6)
    if keras.backend.backend() != "torch":
        seeds = [v for v in tasks[1].variables if "seed" in v.path]
        assert sum(np.array(v)[1] > 0 for v in seeds) >= 4  # they have moved on


def test_lora_trains_with_remat():
    tasks = []
    for model in both(MODELS["bert"][0]):
        ka.enable_lora(model, 2)
        for variable in model.trainable_variables:
            draw = np.random.default_rng(len(variable.path))
            variable.assign(draw.normal(size=variable.shape))
        tasks.append(model)
    found = []
    for model in tasks:

        def run(model=model):
            return sum_of_squares(model(ONE, training=True)), ()

        keras.utils.set_random_seed(5)
        found.append(derivatives(run, [], model.trainable_variables)[1])
    assert len(found[0]) == 8
    for plain, again in zip(*found, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-5, atol=1e-5)
        assert plain.any()


def test_remat_is_in_the_config_and_may_be_missing_there():
    for make, _ in MODELS.values():
        model = make(remat=True)
        config = model.get_config()
        assert type(model).from_config(config).remat is True
        del config["remat"]
        assert type(model).from_config(config).remat is False
