"""`quantize_artifact`: an ONNX artifact in fewer bits, and the error this causes."""

import dataclasses
import fnmatch
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_attention.export.artifact.folders import artifact_folder
from keras_attention.export.artifact.manifest import (
    MANIFEST_NAME,
    Manifest,
    fingerprints,
    read_manifest,
    save_manifest,
)
from keras_attention.export.artifact.staging import staging
from keras_attention.export.cases.grid import CASES_NAME
from keras_attention.export.formats.onnx.graph import (
    EXTERNAL_WEIGHTS_BYTES,
    weights_bytes,
)
from keras_attention.export.runtimes.onnxruntime import open_session, run_in_time
from keras_attention.export.scanning.scan import whole_copy
from keras_attention.export.verification.agreement import worst_cosine
from keras_attention.export.verification.child_process import TIME_LIMIT
from keras_attention.export.verification.verify import (
    Report,
    VerificationError,
    verify_folder,
)

QUANTIZATIONS = ("int8", "int4", "dynamic_int8")


def quantize_artifact(
    source: str | Path,
    path: str | Path,
    kind: str = "int8",
    *,
    keep: Sequence[str] = (),
    feeds: Sequence[Mapping[str, Any]] | None = None,
    min_cosine: float | None = None,
    tolerance: float | None = None,
    time_limit: float = TIME_LIMIT,
    on_progress: Callable[[str], None] | None = None,
) -> Path:
    """Writes an ONNX artifact again with its weights in fewer bits.

    Matrix products with a weight are quantised; embeddings, normalisations, biases and
    attention stay in float32. The new artifact runs every case of the old one, and the
    manifest stores the distance from the float32 outputs; `verify_artifact` then allows
    twice that. What quantisation costs on real texts must be measured on real texts:
    see `compare_artifacts`.

    Args:
        source: An ONNX artifact of `export_model`. It is not changed.
        path: The new artifact's folder.
        kind: `"int8"` or `"int4"`: weights in blocks of 32, with one scale and one
            offset per block. These are for decoding, where most of the time is spent
            reading weights. `"dynamic_int8"`: weights by column, and inputs quantised
            at run time. It is for whole texts at once: fast, and the least exact.
        keep: Patterns of weights to leave in float32, e.g. `"*/block_0/*"`.
        feeds: Inputs of real texts, as `feeds_of_texts` makes them.
        min_cosine: The lowest cosine that is allowed between an output and its float32
            output over the feeds. The most sensitive weights are left in float32 until
            it is reached.
        tolerance: The largest distance of an output that is allowed on the cases.
        time_limit: The seconds that running all cases may take, and one of the feeds.
        on_progress: A function that is called with a description of each step.

    Returns:
        The folder of the artifact.

    Raises:
        VerificationError: If outputs are NaN, have another shape or text, are not 0
            where they must be, or differ by more than `tolerance`. Nothing is kept.
        ValueError: If the source is not an ONNX artifact, if `min_cosine` cannot be
            reached, or an argument is wrong.

    Example:
    ```python
    ka.export_model(model, "minilm-onnx", "onnx")
    ka.quantize_artifact("minilm-onnx", "minilm-int8", "int8")
    ```
    """
    if kind not in QUANTIZATIONS:
        raise ValueError(
            f"`kind` must be one of {', '.join(QUANTIZATIONS)}. Received: kind={kind!r}"
        )
    if min_cosine is not None and not feeds:
        raise ValueError(
            "`min_cosine` is measured on real inputs: pass `feeds` as well, e.g. those "
            f"of `feeds_of_texts`. Received: min_cosine={min_cosine}, feeds={feeds!r}"
        )
    original = artifact_folder(source)
    _check_source(original, read_manifest(original))
    progress = on_progress or (lambda stage: None)
    with (
        whole_copy(original) as (folder, manifest),
        staging(Path(path), needed_bytes=manifest.weights_bytes) as staged,
    ):
        in_float32: list[str] = []
        size = 0
        for file in sorted(folder.glob("*.onnx")):
            progress(f"Quantising {file.stem}")
            search = None
            if feeds and min_cosine is not None:
                search = _Search(kind, feeds, min_cosine, time_limit, progress)
            model, names = _quantize(file, kind, keep, search)
            in_float32 += names
            size += _save(model, staged / file.name)
        _copy_the_rest(folder, staged)
        progress("Running the artifact in a fresh process")
        report = verify_folder(
            staged, tolerance=math.inf, time_limit=time_limit, private=True
        )
        report = _judged(report, tolerance)
        about = {"kind": kind, "source": manifest.files, "float32": sorted(in_float32)}
        save_manifest(
            staged,
            dataclasses.replace(
                manifest,
                files=fingerprints(staged),
                weights_bytes=size,
                verification=[vars(result) for result in report.results],
                quantization=about,
            ),
        )
    return Path(path)


def _check_source(folder: Path, manifest: Manifest) -> None:
    if manifest.format != "onnx" or manifest.quantization:
        found = manifest.format + (", quantised" if manifest.quantization else "")
        raise ValueError(
            "Only a float32 ONNX artifact is quantised: `export_model(…, "
            f'format="onnx")` writes one. Received: {folder} ({found})'
        )


def _quantize(file, kind, keep, search):
    """Returns the quantised model, and the paths of the weights left in float32."""
    import onnx

    from keras_attention.export.quantization.graph import products, quantized

    model = onnx.load(file)
    paths = products(model)
    unused = [p for p in keep if not fnmatch.filter(paths.values(), p)]
    if unused or not paths:
        raise ValueError(
            f"Nothing in '{file.name}' matches. Expected patterns of the weights "
            f"{', '.join(sorted(set(paths.values()))) or '(there are none)'}. "
            f"Received: keep={list(keep)}"
        )
    left = {n for n, p in paths.items() if any(fnmatch.fnmatch(p, k) for k in keep)}
    chosen = [name for name in paths if name not in left]
    if search is not None:
        chosen = search.tolerated(model, chosen)
    model = quantized(model, kind, chosen)
    return model, [path for name, path in paths.items() if name not in chosen]


class _Search(NamedTuple):
    """Finds which weights may be quantised."""

    kind: str
    feeds: Sequence[Mapping[str, Any]]
    min_cosine: float
    time_limit: float
    progress: Callable[[str], None]

    def tolerated(self, model, nodes):
        """Returns as many products as `min_cosine` allows, the least harmful ones."""
        expected = _answers(model, self.feeds, self.time_limit)
        if self._cosine(model, nodes, expected) >= self.min_cosine:
            return nodes
        alone = {}
        for number, node in enumerate(nodes):
            self.progress(f"Measuring weight {number + 1} of {len(nodes)}")
            alone[node] = self._cosine(model, [node], expected)
        order = sorted(nodes, key=alone.__getitem__, reverse=True)
        good, bad = 0, len(order)  # quantising the first `good` is good enough
        while bad - good > 1:
            middle = (good + bad) // 2
            self.progress(f"Trying {middle} of {len(nodes)} weights")
            enough = self._cosine(model, order[:middle], expected) >= self.min_cosine
            good, bad = (middle, bad) if enough else (good, middle)
        if not good:
            raise ValueError(
                f"No weight can be quantised to {self.kind}: the best one alone has a "
                f"cosine of {alone[order[0]]:.6f}. Lower `min_cosine`, or use a kind "
                f"with more bits. Received: min_cosine={self.min_cosine}"
            )
        return order[:good]

    def _cosine(self, model, nodes, expected):
        from keras_attention.export.quantization.graph import quantized

        changed = type(model)()
        changed.CopyFrom(model)
        model = quantized(changed, self.kind, nodes)
        answers = _answers(model, self.feeds, self.time_limit)
        return worst_cosine(expected, answers)


def _answers(model, feeds, time_limit):
    """Returns all float outputs of a graph, one dict per feed."""
    session = open_session(model.SerializeToString())
    names = [one.name for one in session.get_outputs() if "float" in one.type]
    return [
        dict(zip(names, run_in_time(session, names, feed, time_limit), strict=True))
        for feed in feeds
    ]


def _save(model, file: Path) -> int:
    """Writes a model; returns the bytes of its weights."""
    import onnx

    size = weights_bytes(model)
    onnx.save(
        model,
        file,
        save_as_external_data=size > EXTERNAL_WEIGHTS_BYTES,
        location=f"{file.stem}.weights.bin",
    )
    return size


def _copy_the_rest(folder: Path, staged: Path) -> None:
    """Copies the files that are no graph: cases, configurations of other runtimes."""
    for file in folder.iterdir():
        written = file.suffix == ".onnx" or file.name.endswith("weights.bin")
        if file.is_file() and not written and file.name != MANIFEST_NAME:
            shutil.copyfile(file, staged / file.name)
    assert (staged / CASES_NAME).is_file()


def _judged(report: Report, tolerance: float | None) -> Report:
    """Compares the results with the tolerance, or with twice the largest error."""
    worst = max(min(one.max_abs_error, one.max_rel_error) for one in report.results)
    bound = tolerance if tolerance is not None else float(f"{2 * worst:.1e}")
    results = []
    for one in report.results:
        off = min(one.max_abs_error, one.max_rel_error)
        reason = one.reason or ("" if off <= bound else f"off by {off:.2e}")
        results.append(
            dataclasses.replace(one, tolerance=bound, passed=not reason, reason=reason)
        )
    judged = Report(report.path, tuple(results))
    if not judged.passed or not np.isfinite(worst):
        raise VerificationError(
            "The quantised artifact is too far from the float32 one, so it was not "
            "kept. Leave more weights in float32 (`keep`, `min_cosine`), use more "
            f"bits, or raise `tolerance`. Received:\n{judged}"
        )
    return judged
