"""Embeddings of real sentences with real weights, including tokenization."""

import contextlib
import importlib.util
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import corpus, hub
from benchmarks.measure import (
    Progress,
    Row,
    Settings,
    Skipped,
    compare,
    take_turns,
)

KINDS = ("int8", "int4", "dynamic_int8")
BUCKETS = (16, 32, 64, 128, 256)
PEERS = ("eager model.encode", "KerasHub", "torch")


def run(settings: Settings, progress: Progress) -> list[Row | Skipped]:
    import keras_attention as ka

    texts = corpus.sentences(settings.data, 64 if settings.quick else 512)
    batches = corpus.batches(texts)
    model = ka.from_pretrained(corpus.minilm_folder())
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as opened:
        calls, skipped = _artifacts(model, Path(name), settings, progress, opened)
        ours = list(calls)
        calls |= {
            "eager model.encode": lambda batch: model.encode(batch, verbose=False),
            "KerasHub": _hub(model),
            **_torch(settings.threads),
        }
        progress("comparing the vectors")
        accuracy = _accuracy(calls, batches, "eager model.encode")
        samples = _take_turns(calls, batches, settings, progress)
    rows: list[Row | Skipped] = list(skipped)
    for name in ours:
        for peer in PEERS if name in ours[:2] else ("torch",):
            if peer not in samples:
                continue
            targets = {"KerasHub": 1.0} if name in ours[:2] else {}
            if name == "OpenVINO bfloat16":
                targets = {"torch": 2.5}
            row = compare(
                "sentences",
                f"{len(texts)}, {name}",
                samples,
                name,
                peer,
                per=len(texts),
                unit="/s",
                target=targets.get(peer),
                note=accuracy[name],
            )
            rows.append(row)
    return rows


def _artifacts(model, folder, settings, progress, opened):
    """Exports every kind of artifact; returns name -> function of texts."""
    import keras_attention as ka

    more: dict[str, Any] = {"on_progress": progress}
    text = ["serving_default"]
    saved = ka.export_model(model, folder / "saved", signatures=text, **more)
    more_of_xla = {"jit_compile": True, "length_buckets": BUCKETS, **more}
    xla = ka.export_model(model, folder / "xla", signatures=text, **more_of_xla)
    onnx = ka.export_model(model, folder / "onnx", "onnx", **more)
    for kind in KINDS:
        ka.quantize_artifact(onnx, folder / kind, kind, **more)

    def from_ids(path, runtime=None):
        runner = ka.open_artifact(
            path, intra_op_threads=settings.threads, runtime=runtime
        )
        return _onnx(opened.enter_context(runner), model.tokenizer)

    def session(path):
        runner = ka.open_artifact(path, intra_op_threads=settings.threads)
        return _session(opened.enter_context(runner))

    calls = {
        "SavedModel, raw text": session(saved),
        "ONNX Runtime": from_ids(onnx),
        "SavedModel, XLA": session(xla),
        **{f"ONNX Runtime {kind}": from_ids(folder / kind) for kind in KINDS},
    }
    if importlib.util.find_spec("openvino") is None:
        return calls, [Skipped("OpenVINO", "openvino is not installed")]
    calls["OpenVINO"] = from_ids(onnx, "openvino")
    calls["OpenVINO int8"] = from_ids(folder / "int8", "openvino")
    calls["OpenVINO bfloat16"] = from_ids(onnx, "openvino-bfloat16")
    return calls, []


def _take_turns(calls, batches, settings, progress):
    """Takes turns on each batch; a sample is the sum over all batches."""
    found = []
    for index, batch in enumerate(batches):

        def progress_of_batch(stage, index=index):
            progress(f"batch {index + 1} of {len(batches)}, {stage}")

        bound = {name: partial(embed, batch) for name, embed in calls.items()}
        rounds = max(3, settings.rounds // 3)
        found.append(take_turns(bound, settings, progress_of_batch, rounds=rounds))
    return {
        name: np.sum([samples[name] for samples in found], 0).tolist() for name in calls
    }


def _session(runner):
    return lambda texts: runner.run("serving_default", text=texts)["sentence_embedding"]


def _onnx(runner, tokenizer):
    def embed(texts):
        ids = tokenizer(texts)
        fed = {name: ids[name].numpy() for name in ("token_ids", "padding_mask")}
        return runner.run("embed_ids", **fed)["sentence_embedding"]

    return embed


def _hub(model):
    """KerasHub's BERT with MiniLM's weights, compiled, and Hugging Face's tokenizer."""
    import tensorflow as tf
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(corpus.minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_padding()
    tokenizer.enable_truncation(model.tokenizer.max_length)
    backbone = hub.of(model.encoder)
    for layer in backbone.transformer_layers:  # MiniLM's GELU is the exact one
        layer._feedforward_intermediate_dense.activation = _exact_gelu
    spec = tf.TensorSpec((None, None), "int32")

    @tf.function(autograph=False, input_signature=[spec, spec])
    def embed(ids, mask):
        fed = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": mask}
        tokens = backbone(fed, training=False)["sequence_output"]
        mask = tf.cast(mask, "float32")[..., None]
        mean = tf.reduce_sum(tokens * mask, 1) / tf.reduce_sum(mask, 1)
        return tf.math.l2_normalize(mean, -1)

    def call(texts):
        found = tokenizer.encode_batch(texts)
        ids = tf.constant([one.ids for one in found], "int32")
        mask = tf.constant([one.attention_mask for one in found], "int32")
        return embed(ids, mask).numpy()

    return call


def _exact_gelu(x):
    from keras import ops

    return ops.gelu(x, approximate=False)


def _torch(threads):
    """Hugging Face's model, if torch and transformers are installed."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return {}
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(threads)
    folder = str(corpus.minilm_folder())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def embed(texts):
        options = {"padding": True, "truncation": True, "max_length": 256}
        fed = tokenizer(texts, return_tensors="pt", **options)
        mask = fed["attention_mask"][..., None]
        mean = (model(**fed).last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1).numpy()

    return {"torch": embed}


def _accuracy(calls, batches, reference):
    """Returns the lowest cosine with the reference, and equal nearest neighbours."""
    vectors = {
        name: np.concatenate([embed(batch) for batch in batches])
        for name, embed in calls.items()
    }
    truth = vectors[reference]
    found = {}
    for name, own in vectors.items():
        worst = float((own * truth).sum(1).min())
        same = float((_nearest(own) == _nearest(truth)).mean())
        if worst < 0.9:
            raise AssertionError(f"{name} computes something else: cosine {worst}")
        found[name] = f"worst cosine {worst:.6f}, same top-1 {same:.1%}"
    return found


def _nearest(vectors):
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    return similarity.argmax(1)
