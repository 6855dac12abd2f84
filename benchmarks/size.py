"""Bytes of the SavedModel and nodes of the ONNX graph, compared with Keras'."""

import tempfile
from pathlib import Path

from benchmarks import hub
from benchmarks.measure import Progress, Row, Settings


def run(settings: Settings, progress: Progress) -> list[Row]:
    import keras_attention as ka

    ours, theirs = hub.pair(hub.MINILM)
    theirs(hub.inputs(2, 8, 100 + 1000))  # Keras exports only a model that was called
    weights = sum(weight.numpy().nbytes for weight in ours.weights)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = {"signatures": ["serving_default"], "on_progress": progress}
        mine = ka.export_model(ours, folder / "ours", **wanted)
        progress("Keras: model.export")
        theirs.export(str(folder / "keras"), verbose=False)
        sizes = [_bytes(path) / weights for path in (mine, folder / "keras")]
        rows.append(_row("SavedModel", *sizes, "× weights", note="target ≤ 1.05"))
        progress('Keras: model.export(format="onnx")')
        theirs.export(str(folder / "keras.onnx"), format="onnx", verbose=False)
        peer = _nodes(folder / "keras.onnx")
        for opset in (23, 18):
            target = folder / f"onnx-{opset}"
            mine = ka.export_model(ours, target, "onnx", opset=opset, **wanted)
            rows.append(_row(f"ONNX opset {opset}", _nodes(mine), peer, "nodes"))
    return rows


def _row(case, ours, peer, unit, note=""):
    row = Row("export", case, ours, peer, "keras model.export", unit, peer / ours)
    row.note = note
    return row


def _bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _nodes(path):
    import onnx

    path = next(path.glob("*.onnx")) if path.is_dir() else path
    return len(onnx.load(path).graph.node)
