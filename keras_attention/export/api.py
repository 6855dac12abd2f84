"""`export_model`: write an artifact, prove it, put it in place."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_attention.export.artifact.manifest import (
    FORMATS,
    version_numbers,
    write_manifest,
)
from keras_attention.export.artifact.staging import staging
from keras_attention.export.cases.grid import (
    CASES_NAME,
    Case,
    answered,
    grid,
    save_cases,
)
from keras_attention.export.formats.genai_config import write_genai
from keras_attention.export.formats.warmup import write_warmup
from keras_attention.export.signatures import catalogue
from keras_attention.export.signatures.length_buckets import check_buckets, prepared
from keras_attention.export.signatures.signature import Signature
from keras_attention.export.signatures.static_axes import with_sizes
from keras_attention.export.verification.verify import (
    TOLERANCE,
    VerificationError,
    verify_folder,
)
from keras_attention.tasks.causal_lm import CausalLM

HALF = ("bfloat16", "float16")
HALF_TOLERANCE = 5e-2  # bfloat16 keeps 8 bits, and two runtimes round at other places
_NAMES = {"onnx": "ONNX", "litert": "LiteRT"}


def export_model(
    model: keras.Model,
    path: str | Path,
    format: str = "saved_model",
    *,
    version: int | None = None,
    signatures: Sequence[str | Signature] | None = None,
    opset: int = 23,
    static_axes: Mapping[str, int] | None = None,
    jit_compile: bool = False,
    length_buckets: Sequence[int] = (),
    tolerance: float | None = None,
    warmup: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> Path:
    """Exports a model, proves the export, and only then puts it in place.

    The artifact is written beside its final place, opened in a fresh process by the
    runtime it is meant for, and compared with the model over a grid: batch 1 and 3,
    lengths 1, odd and long, padding on both sides, rows that are all padding, hostile
    texts. If all agree it appears under its final name at once, with manifest.json
    (signatures, versions, sha256 of every file, the errors measured) beside it. If
    not, it is removed and the error says which case failed.

    Args:
        model: A model of this library, or any built functional Keras model.
        path: For `"saved_model"` the base folder: the artifact is its numeric version
            folder, as TF Serving wants it. For the others the artifact's folder.
        format: `"saved_model"`, `"onnx"` or `"litert"`.
        version: Of a SavedModel; one above the highest there when `None`.
        signatures: Names of the model's signatures to export, or your own
            `Signature`s. By default a SavedModel has all, the others the first that
            takes ids, each in a file of its own, `NAME.onnx` or `NAME.tflite`.
        opset: Of ONNX, 18 to 26; from 23 on attention is one `Attention` node.
        static_axes: Of LiteRT, which has no free axes: name of an axis to its size,
            e.g. `{"batch": 1, "sequence": 128}`. The batch is 1 unless it is named.
        jit_compile: Of a SavedModel: XLA compiles the model in every signature that
            is no loop and no step of one, for each shape the first time it is asked.
        length_buckets: Of a SavedModel: lengths to round up to, `[16, 32, 64, 128]`,
            so that few shapes are compiled; answers have the length of the question.
            Each is verified and warmed up. A longer input keeps its length.
        tolerance: Largest error allowed, absolute up to values of 1, relative above:
            1e-5, or 5e-2 for a SavedModel of a model that computes in half precision.
        warmup: Write requests with which TF Serving warms a SavedModel up. Needs
            tensorflow-serving-api; where it is not installed, `on_progress` is told.
        on_progress: Called with what is being done now, in words.

    Returns:
        The folder of the artifact.

    Raises:
        VerificationError: If the artifact differs from the model.
        FileExistsError: If the version or folder exists already; it stays as it is.
        ValueError: If the model or an argument cannot be exported, with the reason.

    Example:
    ```python
    model = ka.from_pretrained("all-MiniLM-L6-v2")
    ka.export_model(model, "served/minilm")  # served/minilm/1
    ka.export_model(model, "minilm-onnx", format="onnx")  # minilm-onnx/embed_ids.onnx
    ```
    """
    if format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(FORMATS)}. Received: format={format!r}"
        )
    if format != "saved_model" and version is not None:
        raise ValueError(
            f"`version` is for SavedModels: the artifact of {_NAMES[format]} is the "
            f"folder itself. Received: version={version}"
        )
    if format != "litert" and static_axes is not None:
        raise ValueError(
            "`static_axes` is for LiteRT: in the other formats the axes are free. "
            f"Received: format={format!r}, static_axes={static_axes}"
        )
    if format != "saved_model" and (jit_compile or length_buckets):
        raise ValueError(
            "`jit_compile` and `length_buckets` are for SavedModels; other runtimes "
            f"compile in their own way. Received: format={format!r}, "
            f"jit_compile={jit_compile}, length_buckets={length_buckets!r}"
        )
    _check_backend()
    chosen = _choose(model, signatures, format)
    check_buckets(length_buckets, chosen)
    compilation = {"jit_compile": jit_compile, "length_buckets": [*length_buckets]}
    chosen = with_sizes(chosen, static_axes) if format == "litert" else chosen
    half = keras.backend.standardize_dtype(model.compute_dtype) in HALF
    if half:
        _check_half(model, format)
        chosen = [_answering_in_float32(signature) for signature in chosen]
    if tolerance is None:
        tolerance = HALF_TOLERANCE if half else TOLERANCE
    final = _versioned(Path(path), version) if format == "saved_model" else Path(path)
    served = _prepared(chosen, compilation)
    weights_bytes = sum(_bytes_of(weight) for weight in model.weights)
    tell = on_progress or (lambda stage: None)
    with staging(final, needed_bytes=int(1.1 * weights_bytes)) as folder:
        tell(f"Writing {', '.join(one.name for one in chosen)}")
        libraries = write_files(model, served, folder, format, opset)
        tell("Asking the model the questions of the verification")
        save_cases(answered_cases(chosen, length_buckets), folder / CASES_NAME)
        if warmup and format == "saved_model":
            tell(write_warmup(folder, final.parent.name))
        tell("Asking the artifact, in a fresh process")
        report = verify_folder(folder, tolerance=tolerance)
        if not report.passed:
            raise VerificationError(
                "The exported artifact does not agree with the model, so it was "
                f"removed. Expected errors up to {tolerance:g}. Received:\n{report}"
            )
        write_manifest(
            folder,
            format=format,
            signatures=chosen,
            weights_bytes=weights_bytes,
            verification=[vars(result) for result in report.results],
            op_libraries=libraries,
            compilation=compilation if any(compilation.values()) else {},
        )
    return final


def _versioned(base: Path, version: int | None) -> Path:
    if version is None:
        version = max(version_numbers(base), default=0) + 1
    if version < 0:
        raise ValueError(
            f"`version` must be 0 or more: it names a folder. Received: {version}"
        )
    return base / str(version)


def _choose(
    model: keras.Model, wanted: Sequence[str | Signature] | None, format: str
) -> list[Signature]:
    if wanted is not None and all(isinstance(one, Signature) for one in wanted):
        chosen = [one for one in wanted if isinstance(one, Signature)]
    else:
        known = {one.name: one for one in catalogue.signatures_of(model)}
        chosen = _by_name(known, wanted, format)
    texts = [one.name for one in chosen if one.takes_text]
    if format != "saved_model" and texts:
        raise ValueError(
            f"{_NAMES[format]} has no tokenizers: a signature that takes text can only "
            f"be a SavedModel. Export one that takes ids. Received: {', '.join(texts)}"
        )
    return chosen


def _check_half(model: keras.Model, format: str) -> None:
    if format == "saved_model":
        return
    then = (
        ', then `quantize_artifact`, or ask OpenVINO with runtime="openvino-bfloat16"'
        if format == "onnx"
        else ""
    )
    raise ValueError(
        f"{_NAMES[format]} files are written in float32: build or load the model with "
        f'dtype="float32" (its weights are float32 in a mixed policy too){then}. '
        f"Received: a model that computes in {model.compute_dtype}"
    )


def _answering_in_float32(signature: Signature) -> Signature:
    """What clients can read, whatever the model computes in."""

    def wrap(function):
        def in_float32(**inputs):
            return {
                name: keras.ops.cast(value, "float32")
                if keras.backend.standardize_dtype(value.dtype) in HALF
                else value
                for name, value in function(**inputs).items()
            }

        return in_float32

    return signature.wrapped(wrap)


def _prepared(
    chosen: list[Signature], compilation: Mapping[str, Any]
) -> list[Signature]:
    """The signatures as they are served; refused if none would be another."""
    served = [prepared(one, **compilation) for one in chosen]
    if any(compilation.values()) and all(map(operator.is_, served, chosen)):
        raise ValueError(
            "Nothing can be compiled or rounded up: loops and steps with a cache are "
            "left as they are, and lengths are rounded up where there is a mask. Leave "
            "`jit_compile` and `length_buckets` away, or export other signatures. "
            f"Received: signatures {', '.join(one.name for one in chosen)}"
        )
    return served


def _by_name(
    known: dict[str, Signature], wanted: Iterable[Any] | None, format: str
) -> list[Signature]:
    known = {name: one for name, one in known.items() if format in one.formats}
    if wanted is None:
        if format == "saved_model":
            return list(known.values())
        return [one for one in known.values() if not one.takes_text][:1]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(
            f"The model has the signatures {', '.join(known)}. "
            f"Received: signatures={list(wanted)}"
        )
    return [known[name] for name in wanted]


def write_files(
    model: keras.Model, chosen: list[Signature], folder: Path, format: str, opset: int
) -> list[str]:
    """Writes signatures into a folder; returns the op libraries its loaders need.

    Args:
        model: Whose signatures they are.
        chosen: For ONNX and LiteRT, a file each.
        folder: Which exists, and is empty.
        format: One of `FORMATS`.
        opset: Of ONNX.
    """
    if format == "onnx":
        from keras_attention.export.formats.onnx.writer import write_onnx

        for signature in chosen:
            write_onnx(
                signature,
                folder / f"{signature.name}.onnx",
                opset=opset,
                variables=model.weights,
            )
        if isinstance(model, CausalLM) and any(s.name == "decoder" for s in chosen):
            write_genai(model, folder)
        return []
    if format == "litert":
        from keras_attention.export.formats.litert import write_litert

        for signature in chosen:
            file = folder / f"{signature.name}.tflite"
            write_litert(signature, file, variables=model.weights)
        return []
    from keras_attention.export.formats.saved_model import (
        op_libraries,
        write_saved_model,
    )

    write_saved_model(
        chosen,
        folder,
        variables=model.weights,
        assets_and_resources=catalogue.resources_of(model),
    )
    return op_libraries(folder)


def answered_cases(
    chosen: list[Signature], length_buckets: Sequence[int] = ()
) -> Iterator[Case]:
    """The questions of the verification, with what the model says.

    Args:
        chosen: The signatures.
        length_buckets: Lengths that are asked too.
    """
    for signature in chosen:
        cases = grid(signature, length_buckets)
        yield from answered(cases, signature.function, keras.ops.convert_to_numpy)


def _bytes_of(weight: Any) -> int:
    return int(weight.value.dtype.size) * int(keras.ops.size(weight))


def _check_backend() -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Exports are written by TensorFlow. Save the model as .keras, and export "
            "it in a process with KERAS_BACKEND=tensorflow. "
            f"Received: backend {keras.backend.backend()!r}"
        )
