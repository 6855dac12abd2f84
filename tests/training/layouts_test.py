"""Which variables a layout map divides; the losses are in contracts/layouts_test.py."""

import keras
import pytest

import keras_attention as ka

SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
DEVICES = [f"cpu:{i}" for i in range(4)]


def mesh(*shape):
    names = ("batch", "model")[: len(shape)]
    return keras.distribution.DeviceMesh(shape, names, DEVICES)


def divided(model, layouts):
    """The paths without their first part -> the axes, of what is divided."""
    found = {v.path.partition("/")[2]: layouts[v.path] for v in model.variables}
    return {path: layout.axes for path, layout in found.items() if layout is not None}


def test_attention_is_divided_by_heads_and_the_rest_by_its_inner_size():
    model = ka.BertEncoder(61, **SIZES)
    found = divided(model, ka.layout_map(model, mesh(2, 2)))
    block = {
        path.removeprefix("block_0/"): axes
        for path, axes in found.items()
        if path.startswith("block_0")
    }
    heads = {
        f"attention/{name}/{kind}": axes
        for name in ("query", "key", "value")
        for kind, axes in [("kernel", (None, "model", None)), ("bias", ("model", None))]
    }
    assert block == heads | {
        "attention/attention_output/kernel": ("model", None, None),
        "feed_forward/intermediate/kernel": (None, "model"),
        "feed_forward/intermediate/bias": ("model",),
        "feed_forward/output/kernel": ("model", None),
    }
    tables = set(found) - {f"block_0/{path}" for path in block}
    assert tables == {
        f"{n}_embedding/embeddings" for n in ("token", "position", "segment")
    }
    assert all(found[path] == (None, "model") for path in tables)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: ka.GPTDecoder(61, **SIZES, gated=True, head="own"), 15),
        (lambda: ka.VisionTransformer((8, 8), 4, **SIZES), 11),
        (lambda: ka.Seq2SeqTransformer(61, **SIZES), 28),
        (lambda: ka.T5EncoderDecoder(61, **SIZES), 17),
        (lambda: ka.CausalLM(ka.GPTDecoder(61, **SIZES)), 12),
    ],
)
def test_every_family_is_divided(make, count):
    model = make()
    found = divided(model, ka.layout_map(model, mesh(2, 2)))
    assert len(found) == count, sorted(found)


def test_what_cannot_be_divided_evenly_is_on_every_device():
    model = ka.GPTDecoder(61, **SIZES, num_key_value_heads=1)
    found = divided(model, ka.layout_map(model, mesh(2, 2)))
    assert "block_0/attention/query/kernel" in found
    assert "block_0/attention/key/kernel" not in found
    assert not ka.layout_map(model, mesh(4))  # data parallelism


def test_a_model_without_variables_is_refused():
    with pytest.raises(ValueError, match=r"call the model once.*Received: "):
        ka.layout_map(keras.Sequential([keras.layers.Dense(2)]), mesh(2, 2))
