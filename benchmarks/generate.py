"""Greedy decoding with GPT-2's 124M shape, compared with KerasHub and Hugging Face.

The weights are random. Each candidate decodes 64 tokens after 32. The lower limit of
the time is reading each weight once per token from memory. ONNX artifacts are run by
the client of export/clients and by onnxruntime-genai.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import (
    Progress,
    Row,
    Settings,
    Skipped,
    compare,
    fastest,
    take_turns,
)

GPT2 = (50257, 12, 12, 768, 3072)
SMALL = (5003, 2, 4, 128, 512)
PROMPT, NEW = 32, 64
PEERS = ("KerasHub", "KerasHub, XLA", "transformers")
KINDS = ("int8", "int4")
CLIENTS = Path(__file__).parent.parent / "export" / "clients"


def run(settings: Settings, progress: Progress) -> list[Row | Skipped]:
    shape = SMALL if settings.quick else GPT2
    with tempfile.TemporaryDirectory() as folder:
        calls, rows = _candidates(shape, settings, progress, Path(folder))
        _measure(shape, calls, settings, progress, rows)
    return rows


def _measure(shape, calls, settings, progress, rows):
    rounds = max(3, settings.rounds // 3)
    for batch in (1, 8):
        ids = np.random.default_rng(0).integers(1, shape[0], (batch, PROMPT))
        ids = ids.astype("int32")
        bound = {name: _calling(call, ids) for name, call in calls.items()}
        samples = take_turns(bound, settings, progress, rounds=rounds)
        peers = [name for name in PEERS if name in samples]
        case = f"{'small' if settings.quick else 'GPT-2 124M'}, batch {batch}"
        more = {"per": NEW * batch, "unit": "tokens/s"}
        hub = fastest(samples, *(name for name in peers if "Hub" in name))
        for peer in {hub, *peers} - ({"KerasHub", "KerasHub, XLA"} - {hub}):
            target = 1.5 if peer == hub and batch == 1 else None
            row = compare(
                "generate", case, samples, "ours", peer, target=target, **more
            )
            rows.append(row)
        for name in [name for name in samples if "ONNX" in name]:
            target = 4.0 if batch == 1 and any(kind in name for kind in KINDS) else None
            row = compare(
                "generate", f"{case}, {name}", samples, name, hub, target=target, **more
            )
            rows.append(row)
        if batch == 1:
            more["target"] = 0.85
            name = "weights read once"
            rows.append(compare("generate", case, samples, "ours", name, **more))


def _calling(call, ids):
    return lambda: call(ids)


def _candidates(shape, settings, progress, folder):
    import keras

    import keras_attention as ka

    progress("building the models")
    keras.utils.set_random_seed(0)
    decoder = ka.GPTDecoder(*shape)
    model = ka.CausalLM(decoder)
    calls = {
        "ours": lambda ids: model.generate(ids, max_new_tokens=NEW),
        "weights read once": _limit(decoder),
        "KerasHub": _keras_hub(shape, jit=False),
        "KerasHub, XLA": _keras_hub(shape, jit=True),
    }
    skipped: list[Row | Skipped] = []
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
        calls["transformers"] = _transformers(shape, settings.threads)
    else:
        skipped.append(Skipped("transformers", "it and torch are not installed"))
    paths = {
        "": ka.export_model(model, folder / "onnx", "onnx", signatures=["decoder"])
    }
    for kind in KINDS:
        progress(f"quantising to {kind}")
        paths[f" {kind}"] = ka.quantize_artifact(paths[""], folder / kind, kind)
    for kind, path in paths.items():
        calls[f"ONNX{kind}"] = _client(path, settings.threads)
        if importlib.util.find_spec("onnxruntime_genai"):
            calls[f"ONNX{kind}, genai"] = _genai(path)
    return calls, skipped


def _client(folder, threads):
    """The text generator of export/clients, on numpy and onnxruntime."""
    if str(CLIENTS) not in sys.path:
        sys.path.insert(0, str(CLIENTS))
    from text_generation import Choices, TextGenerator

    generator = TextGenerator(folder, threads=threads)
    choices = Choices(max_new_tokens=NEW)

    def call(ids):
        *_, rows = generator.tokens(ids.tolist(), choices)
        return rows

    return call


def _genai(folder):
    """The loop of onnxruntime-genai, with its own choice of threads."""
    import onnxruntime_genai as genai

    model = genai.Model(str(folder))

    def call(ids):
        settings = genai.GeneratorParams(model)
        settings.set_search_options(max_length=PROMPT + NEW, batch_size=len(ids))
        generator = genai.Generator(model, settings)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(row) for row in range(len(ids))]

    return call


def _keras_hub(shape, *, jit):
    import keras_hub

    vocabulary, layers, heads, width, inner = shape
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary, layers, heads, width, inner, max_sequence_length=1024
    )
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy", jit_compile=jit)

    def call(ids):
        padded = np.pad(ids, [[0, 0], [0, NEW]])
        mask = np.arange(PROMPT + NEW)[None] < PROMPT
        inputs = {"token_ids": padded, "padding_mask": np.repeat(mask, len(ids), 0)}
        return model.generate(inputs, stop_token_ids=None)

    return call


def _transformers(shape, threads):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(threads)
    vocabulary, layers, heads, width, _ = shape
    config = GPT2Config(
        vocab_size=vocabulary,
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()

    def call(ids):
        ids = torch.tensor(ids, dtype=torch.long)
        settings = {"max_new_tokens": NEW, "do_sample": False}
        return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)

    return call


def _limit(decoder):
    """Multiplies one vector with each matrix, once per new token."""
    import tensorflow as tf

    weights = [
        w.value
        if len(w.shape) == 2
        else tf.Variable(tf.reshape(w.value, w.matrix_shape))
        for w in decoder.trainable_weights
        if len(w.shape) > 2 or "kernel" in w.path or "token" in w.path
    ]

    @tf.function(jit_compile=True, autograph=False)
    def once(number):
        total = number
        for weight in weights:
            table = weight.shape[0] == decoder.vocabulary_size
            vector = tf.fill((1, weight.shape[1 if table else 0]), total * 1e-9)
            total += tf.reduce_sum(tf.matmul(vector, weight, transpose_b=table))
        return total

    def call(ids):
        number = tf.constant(float(ids[0, 0]))
        for _ in range(NEW):
            number = once(number)
        return number.numpy()

    return call
