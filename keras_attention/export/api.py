"""`export_model`: writes an artifact, verifies it, and puts it in place."""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.folders import taken_numbers
from keras_attention.export.artifact.manifest import (
    FORMATS,
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
from keras_attention.export.formats.errors import ExportError, refuse_text
from keras_attention.export.formats.genai_config import write_genai
from keras_attention.export.formats.warmup import write_warmup
from keras_attention.export.scanning.scan import inspect_file
from keras_attention.export.signatures import catalogue
from keras_attention.export.signatures.keras_model import Description
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
HALF_TOLERANCE = 5e-2  # bfloat16 has 8 bits, and two runtimes round in other places


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
    axes: Mapping[str, Sequence[str | int]] | None = None,
    limits: Mapping[str, int] | None = None,
    max_lengths: Mapping[str, int] | None = None,
    sample_inputs: Any = None,
    input_signature: Any = None,
    on_progress: Callable[[str], None] | None = None,
) -> Path:
    """Exports a model, verifies the artifact, and only then puts it in place.

    The artifact is written next to its final place, opened in a fresh process by the
    runtime it is meant for, and compared with the model over a grid: batch 1 and 3,
    lengths 1, odd and long, padding on both sides, rows that are all padding, hostile
    texts. If all cases agree, it appears under its final name in one step, with a
    manifest.json (signatures, versions, sha256 of every file, the errors measured). If
    one does not, the artifact is removed and the error names the case.

    Args:
        model: A model of this library, or any built functional Keras model.
        path: The artifact's folder. For `"saved_model"` the base folder: the artifact
            is a numeric version folder in it, as TF Serving expects.
        format: `"saved_model"`, `"onnx"` or `"litert"`.
        version: The version of a SavedModel; one above the highest there when `None`.
        signatures: The names of the model's signatures to export, or your own
            `Signature`s. By default a SavedModel has all of them, and the other
            formats the first that takes ids. The other formats have one file per
            signature, `NAME.onnx` or `NAME.tflite`.
        opset: The ONNX opset, 18 to 26; from 23 on attention is one `Attention` node.
        static_axes: For LiteRT, which has no free axes: the name of each axis with its
            size, e.g. `{"batch": 1, "sequence": 128}`. The batch is 1 by default.
        jit_compile: For a SavedModel: XLA compiles the model in every signature that
            is not a loop or a step of one, once for each shape.
        length_buckets: For a SavedModel: lengths to round up to, `[16, 32, 64, 128]`,
            so that few shapes are compiled; outputs have the length of the input.
            Each is verified and warmed up. A longer input keeps its length.
        tolerance: The largest error allowed, absolute up to values of 1, relative
            above: 1e-5, or 5e-2 for a SavedModel of a model that computes in half
            precision.
        warmup: Write requests with which TF Serving warms a SavedModel up. Needs
            tensorflow-serving-api; without it, `on_progress` is called with the reason.
        axes: For your own Keras models: the name of an input with one entry per axis,
            a name or a size, such as `{"tokens": ("batch", "length")}`. Axes with one
            name have one size. What you omit is found by running the model: each free
            axis has a name of its own unless the model needs two to be equal.
        limits: For your own models: the name of an integer input with the exclusive
            upper bound of its values. Found by running the model where you omit it.
        max_lengths: For your own models: the name of an axis with its largest size.
            Found like `limits`.
        sample_inputs: For your own models: a batch as `model.predict` takes it. The
            verification runs it besides the grid; it also tells what a subclassed
            model takes, with all axes but the batch fixed unless `axes` names them.
        input_signature: For subclassed models: `keras.InputSpec`s or `tf.TensorSpec`s
            in the structure of the inputs, with `None` for free axes.
        on_progress: Called with a text that says what is being done now.

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
    _check_arguments(format, version, static_axes, jit_compile, length_buckets)
    _check_backend()
    described = Description(
        axes or {}, limits or {}, max_lengths or {}, sample_inputs, input_signature
    )
    chosen = _choose(model, signatures, format, described)
    check_buckets(length_buckets, chosen)
    compilation = {"jit_compile": jit_compile, "length_buckets": [*length_buckets]}
    chosen = with_sizes(chosen, static_axes) if format == "litert" else chosen
    dtypes = {str(layer.compute_dtype) for layer in model._flatten_layers()}
    half = not dtypes.isdisjoint(HALF)
    if half:
        _check_half(dtypes, format)
        chosen = [_answering_in_float32(signature) for signature in chosen]
    if tolerance is None:
        tolerance = HALF_TOLERANCE if half else TOLERANCE
    final = _versioned(Path(path), version) if format == "saved_model" else Path(path)
    served = _prepared(chosen, compilation)
    weights_bytes = sum(_bytes_of(weight) for weight in model.weights)
    progress = on_progress or (lambda stage: None)
    with staging(final, needed_bytes=int(1.1 * weights_bytes)) as folder:
        progress(f"Writing {', '.join(one.name for one in chosen)}")
        libraries = write_files(model, served, folder, format, opset)
        _refuse_what_no_reader_would_open(folder)
        progress("Running the model on the cases of the verification")
        save_cases(answered_cases(chosen, length_buckets), folder / CASES_NAME)
        if warmup and format == "saved_model":
            progress(write_warmup(folder, final.parent.name))
        progress("Running the artifact on them, in a fresh process")
        report = verify_folder(folder, tolerance=tolerance, private=True)
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


def _check_arguments(
    format: str,
    version: int | None,
    static_axes: Mapping[str, int] | None,
    jit_compile: bool,
    length_buckets: Sequence[int],
) -> None:
    """Refuse a format that is not there, and arguments of other formats."""
    if format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(FORMATS)}. Received: format={format!r}"
        )
    if format != "saved_model" and version is not None:
        raise ValueError(
            f"`version` is for SavedModels: the artifact of {FORMATS[format]} is the "
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


def _versioned(base: Path, version: int | None) -> Path:
    if version is None:
        version = max(taken_numbers(base), default=0) + 1
    if version < 0:
        raise ValueError(
            f"`version` must be 0 or more: it names a folder. Received: {version}"
        )
    return base / str(version)


def _refuse_what_no_reader_would_open(folder: Path) -> None:
    """Refuse operators that `open_artifact` would refuse, before more time is spent."""
    for file in sorted(folder.iterdir()):
        if file.suffix in (".onnx", ".tflite") or file.name == "saved_model.pb":
            _, problems = inspect_file(file)
            if problems:
                raise ExportError(
                    "The model uses operators that are not known to be harmless, so "
                    "`open_artifact` would refuse them. Expected operators that "
                    "only compute: replace the layers that use the others. "
                    f"Received: {'; '.join(sorted(set(problems)))}"
                )


def _choose(
    model: keras.Model,
    wanted: Sequence[str | Signature] | None,
    format: str,
    described: Description,
) -> list[Signature]:
    """The chosen signatures: the model's by name, and the user's own."""
    wanted_names = [one for one in wanted or () if not isinstance(one, Signature)]
    found = {}
    if wanted is None or wanted_names:
        known = {one.name: one for one in catalogue.signatures_of(model, described)}
        names = None if wanted is None else wanted_names
        found = {one.name: one for one in _by_name(known, names, format)}
    chosen = list(found.values())
    if wanted is not None:
        chosen = [one if isinstance(one, Signature) else found[one] for one in wanted]
    if format != "saved_model":
        for one in chosen:
            refuse_text(one, FORMATS[format])
    return chosen


def _check_half(dtypes: set[str], format: str) -> None:
    if format == "saved_model":
        return
    then = (
        ', then `quantize_artifact`, or run it with runtime="openvino-bfloat16"'
        if format == "onnx"
        else ""
    )
    raise ValueError(
        f"{FORMATS[format]} files are written in float32: build or load the model with "
        f'dtype="float32" (its weights are float32 in a mixed policy too){then}. '
        f"Received: layers that compute in {', '.join(sorted(dtypes & {*HALF}))}"
    )


def _answering_in_float32(signature: Signature) -> Signature:
    """The signature with outputs in float32, which every client can read."""

    def wrap(function):
        def in_float32(**inputs):
            return {
                name: keras.ops.cast(value, "float32")
                if keras.backend.standardize_dtype(value.dtype) in HALF
                else value
                for name, value in function(**inputs).items()
            }

        return in_float32

    outputs = {
        name: TensorInfo("float32", info.shape) if info.dtype in HALF else info
        for name, info in signature.outputs.items()
    }
    return dataclasses.replace(signature.wrapped(wrap), outputs=outputs)


def _prepared(
    chosen: list[Signature], compilation: Mapping[str, Any]
) -> list[Signature]:
    """The signatures as they are served; an error if none of them is changed."""
    served = [prepared(one, **compilation) for one in chosen]
    if any(compilation.values()) and all(map(operator.is_, served, chosen)):
        raise ValueError(
            "Nothing can be compiled or rounded up: loops and steps with a cache stay "
            "as they are, and lengths are rounded up only where there is a mask. Omit "
            "`jit_compile` and `length_buckets`, or export other signatures. "
            f"Received: signatures {', '.join(one.name for one in chosen)}"
        )
    return served


def _by_name(
    known: dict[str, Signature], wanted: Iterable[Any] | None, format: str
) -> list[Signature]:
    known = {name: one for name, one in known.items() if format in one.formats}
    if wanted is None:
        offered = [one for one in known.values() if not one.on_request]
        if format == "saved_model":
            return offered
        return [one for one in offered if not one.takes_text][:1]
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
        model: The model of the signatures.
        chosen: The signatures; ONNX and LiteRT have one file for each.
        folder: An empty folder.
        format: One of `FORMATS`.
        opset: The ONNX opset.
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
    """The cases of the verification, with the model's answers.

    Args:
        chosen: The signatures.
        length_buckets: Lengths to make cases of as well.
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
