"""On JAX: data and variables divided among four devices, with the losses of one."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] != "jax", reason="keras.distribution is JAX's"
)
CODE = """
import sys
import jax, keras, numpy as np, keras_attention as ka
from keras import distribution
assert len(jax.devices()) == 4
SIZES = dict(num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=24)
ids = np.array([[5, 3, 7, 8], [9, 3, 2, 0], [4, 4, 6, 0], [8, 1, 2, 3]] * 2)
inputs = {"token_ids": ids, "padding_mask": ids != 0}
pairs = {f"{s}_{n}": v for n, v in inputs.items() for s in ("encoder", "decoder")}
images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
LLAMA = dict(position="rotary", normalization="rms", gated=True, head="own")
MODELS = {
    "bert": (lambda: ka.MaskedLM(ka.BertEncoder(61, dropout=0.0, **SIZES)), inputs),
    "gpt2": (lambda: ka.CausalLM(ka.GPTDecoder(61, dropout=0.0, **SIZES)), inputs),
    "llama": (
        lambda: ka.CausalLM(
            ka.GPTDecoder(61, num_key_value_heads=1, dropout=0.0, **LLAMA, **SIZES)
        ),
        inputs,
    ),
    "seq2seq": (
        lambda: ka.Seq2SeqLM(
            ka.Seq2SeqTransformer(61, dropout=0.0, **SIZES),
            start_token_id=1, end_token_id=2,
        ),
        pairs,
    ),
    "t5": (
        lambda: ka.Seq2SeqLM(
            ka.T5EncoderDecoder(61, dropout=0.0, **SIZES),
            start_token_id=1, end_token_id=2,
        ),
        pairs,
    ),
    "vit": (
        lambda: ka.ImageClassifier(
            ka.VisionTransformer((8, 8), 4, **SIZES, dropout=0.0), ["a", "b"]
        ),
        images,
    ),
}
devices = distribution.list_devices()
square = distribution.DeviceMesh((2, 2), ("batch", "model"), devices)
for name, (make, x) in MODELS.items():
    y = ids % 2 if name != "vit" else np.arange(8) % 2
    keras.utils.set_random_seed(1)
    first = make()
    layouts = ka.layout_map(first, square)
    ways = {
        "one": None,
        "data": distribution.DataParallel(devices=devices),
        "model": distribution.ModelParallel(layout_map=layouts),
    }
    losses = {}
    for way, chosen in ways.items():
        if way == "data" and name not in ("bert", "llama"):
            continue
        distribution.set_distribution(chosen)
        keras.utils.set_random_seed(1)
        model = make()
        model.compile(ka.AdamW(1e-3), **model.compile_arguments())
        history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        losses[way] = history.history["loss"]
        if way == "model":
            parts = [len({str(s.index) for s in v.value.addressable_shards})
                     for v in model.trainable_variables]
            assert sum(part == 2 for part in parts) > len(parts) / 3, parts
    distribution.set_distribution(None)
    apart = max(
        abs(a - b) for way in losses for a, b in zip(losses[way], losses["one"])
    )
    print(name, apart, losses["one"])
    assert apart <= 1e-6, (name, losses)
    assert losses["one"][0] != losses["one"][1]
"""


@pytest.mark.timeout(900)
def test_divided_models_have_the_losses_of_one_device(record_property):
    flags = "--xla_force_host_platform_device_count=4"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    found = subprocess.run(
        [sys.executable, "-c", CODE],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert len(found.stdout.splitlines()) == 6
