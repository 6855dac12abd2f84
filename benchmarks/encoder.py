"""A BERT-base SavedModel in a session, compared with KerasHub's BertBackbone."""

import tempfile
from pathlib import Path

from benchmarks import hub
from benchmarks.measure import Progress, Row, Settings, compare, fastest, take_turns

SHAPES = ((1, 128), (8, 128), (1, 512))


def run(settings: Settings, progress: Progress) -> list[Row]:
    import keras_attention as ka
    from keras_attention.export.runtimes.opening import open_artifact

    shape = hub.MINILM if settings.quick else hub.BERT_BASE
    progress("building both models")
    ours, theirs = hub.pair(shape)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            ka.export_model(
                ours,
                Path(folder) / f"xla-{jit_compile}",
                signatures=["serving_default"],
                jit_compile=jit_compile,
                on_progress=progress,
            )
            for jit_compile in (False, True)
        ]
        threads = {"intra_op_threads": settings.threads}
        with (
            open_artifact(paths[0], **threads) as plain,
            open_artifact(paths[1], **threads) as xla,
        ):
            for batch, length in SHAPES:
                fed = hub.inputs(batch, length, shape["vocabulary_size"])
                models = plain, xla, ours, theirs
                rows += _compare(models, fed, settings, progress)
    return rows


def _compare(models, fed, settings, progress):
    import numpy as np

    plain, xla, ours, theirs = models
    calls = {
        "SavedModel": lambda: plain.run("serving_default", **fed),
        "SavedModel, XLA": lambda: xla.run("serving_default", **fed),
        "ours, tf.function": _compiled(ours, fed, jit=False),
        "KerasHub": _compiled(theirs, fed, jit=False),
        "KerasHub, XLA": _compiled(theirs, fed, jit=True),
    }
    mask = fed["padding_mask"]
    results = [call()["sequence_output"][mask] for call in calls.values()]
    for other in results[1:]:
        np.testing.assert_allclose(results[0], other, atol=1e-3)
    rounds = max(3, settings.rounds * 2 // 3)
    samples = take_turns(calls, settings, progress, rounds=rounds)
    case = "{} × {}".format(*mask.shape)
    peer = fastest(samples, "KerasHub", "KerasHub, XLA")
    name = "BERT MiniLM" if settings.quick else "BERT base"
    return [
        compare("encoder", f"{name} {case}, {ours}", samples, ours, peer, target=target)
        for ours, target in (
            ("SavedModel", 1.0),
            ("SavedModel, XLA", None),
            ("ours, tf.function", None),
        )
    ]


def _compiled(model, fed, *, jit):
    import tensorflow as tf

    fed = {name: tf.constant(value) for name, value in fed.items()}

    @tf.function(jit_compile=jit, autograph=False)
    def function(fed):
        return model(fed, training=False)

    def call():
        return {name: value.numpy() for name, value in function(fed).items()}

    return call
