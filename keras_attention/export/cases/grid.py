"""The grid of cases an artifact is verified on, and the file that holds them.

The cases are stored in the artifact, so that it can be verified again on a machine that
has the runtime and nothing else. This module needs neither TensorFlow nor Keras.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CASES_NAME = "verification.npz"

TEXTS: dict[str, list[str]] = {
    "one text": ["The weather is lovely today."],
    "texts of three lengths": ["Hi!", "", "It's so sunny outside, isn't it? " * 4],
    "hostile texts": [
        "ÀÉÎÕÜ ñ ç ß ŉ ﬁ İstanbul ΣΊΣΥΦΟΣ",
        "日本語テキスト 한국어 ไทย العربية עברית",
        "👩‍👩‍👧‍👦 🏳️‍🌈\u200b\ufeff\u0000\x07\t\r\n\u200b\ufffd tail",
    ],
    "10,000 characters": ["word " * 2000, "x" * 10_000],
}


@dataclass(frozen=True)
class Case:
    """Inputs of a signature and the outputs that the model returns for them.

    Attributes:
        signature: The signature's name.
        name: What this case tests, in words.
        inputs: The inputs, name to array; text is a list of strings.
        expected: The model's outputs, name to array.
        exact_zeros: The outputs whose zeros must be exactly 0.
    """

    signature: str
    name: str
    inputs: dict[str, Any]
    expected: dict[str, np.ndarray] = field(default_factory=dict)
    exact_zeros: tuple[str, ...] = ()


def grid(signature: Any, length_buckets: Sequence[int] = ()) -> Iterator[Case]:
    """Yields the cases of one signature; `answered` adds the expected outputs.

    These are the signature's own examples. If it has none: batch 1 and 3; lengths 1,
    odd and long; no padding, padding on the right and on the left, and a row that is
    all padding.

    Args:
        signature: A `Signature`.
        length_buckets: Further lengths to test.
    """
    if signature.examples is not None:
        for name, inputs, expected in signature.examples():
            zeros = signature.exact_zeros
            yield Case(signature.name, name, inputs, expected or {}, zeros)
        return
    if signature.takes_text:
        # One token per word, and up to three special tokens around them.
        more = {f"{n - 3} words": ["a " * (n - 3)] for n in length_buckets if n > 3}
        for name, texts in (TEXTS | more).items():
            # Attention maps of long texts are large; a long word is one token.
            chosen = texts[-1:] if _has_maps(signature) else texts
            inputs = {
                key: chosen[place:] + chosen[:place]
                for place, key in enumerate(signature.inputs)
            }
            yield Case(signature.name, name, inputs, {}, signature.exact_zeros)
        return
    shapes = _shapes_and_padding(signature, length_buckets)
    for seed, (name, sizes, mask) in enumerate(shapes):
        more = {"sizes": sizes, "padding_mask": mask}
        random = np.random.default_rng(seed)
        inputs = {
            key: random_values(key, info, signature=signature, random=random, **more)
            for key, info in signature.inputs.items()
        }
        yield Case(signature.name, name, inputs, {}, signature.exact_zeros)


def _shapes_and_padding(signature, length_buckets):
    axes = {a for i in signature.inputs.values() for a in i.shape if isinstance(a, str)}
    # Ids without a mask input have an implicit one: id 0 is padding.
    masked = any(
        info.dtype == "bool" or name in signature.limits
        for name, info in signature.inputs.items()
    )
    # Maps grow with the square of the length: a shorter long case keeps files small.
    longest = 33 if _has_maps(signature) else 129
    longest = min([longest, *signature.max_lengths.values()])
    lengths = [1, 7, longest] if axes - {"batch"} else [1]
    for batch in (1, 3) if "batch" in axes else (1,):
        for length in lengths:
            sizes = {**dict.fromkeys(axes, length), "batch": batch}
            for padding in ("no", "right", "left") if masked else ("no",):
                mask = _padding_mask(batch, length, padding)
                yield f"batch {batch}, length {length}, {padding} padding", sizes, mask
    if masked:
        sizes = {**dict.fromkeys(axes, 7), "batch": 3}
        mask = _padding_mask(3, 7, "right")
        mask[1] = False
        yield "one row of three is all padding", sizes, mask
        sizes = {**dict.fromkeys(axes, 5), "batch": 1}
        yield "the only row is all padding", sizes, np.zeros((1, 5), bool)
    for length in length_buckets if axes - {"batch"} else ():
        if length <= longest or not _has_maps(signature):
            sizes = {**dict.fromkeys(axes, length), "batch": 1}
            yield f"length {length}", sizes, _padding_mask(1, length, "no")


def _has_maps(signature) -> bool:
    return any(len(info.shape) > 3 for info in signature.outputs.values())


def _padding_mask(batch: int, length: int, padding: str) -> np.ndarray:
    """Bool `[batch, length]`; row b has b + 1 quarters of padding."""
    mask = np.ones((batch, length), bool)
    for row in range(batch):
        lost = 0 if padding == "no" else (row + 1) * length // 4
        mask[row, length - lost :] = False
    return mask[:, ::-1].copy() if padding == "left" else mask


def random_values(name, info, *, signature, sizes, padding_mask, random) -> np.ndarray:
    """Draws one input of a case: ids below their limit, 0 at padding.

    Args:
        name: The input's name.
        info: The input's `TensorInfo`.
        signature: The signature that has the input.
        sizes: The size of each dynamic axis, by name.
        padding_mask: Bool `[batch, length]`, False at padding. It is used for inputs
            of this shape.
        random: A NumPy random generator.
    """
    shape = tuple(sizes[a] if isinstance(a, str) else a for a in info.shape)
    if info.dtype == "bool":
        if shape == padding_mask.shape:
            return padding_mask
        return random.random(shape) < 0.7
    if "int" in info.dtype:
        values = random.integers(0, signature.limits.get(name, 2), shape)
        values = values * padding_mask if shape == padding_mask.shape else values
        return values.astype(info.dtype)
    return random.standard_normal(shape).astype(info.dtype)


def answered(cases: Iterable[Case], function: Callable, to_numpy: Callable):
    """Yields the cases with the outputs of the model.

    Args:
        cases: Cases of one signature.
        function: The signature's function.
        to_numpy: A function that converts a tensor to an array.
    """
    for case in cases:
        expected = case.expected or function(**case.inputs)
        expected = {name: to_numpy(value) for name, value in expected.items()}
        yield Case(case.signature, case.name, case.inputs, expected, case.exact_zeros)


def save_cases(cases: Iterable[Case], file: Path) -> None:
    """Writes cases into one compressed NumPy file."""
    arrays: dict[str, np.ndarray] = {}
    index = []
    for number, case in enumerate(cases):
        texts = {k: v for k, v in case.inputs.items() if isinstance(v, list)}
        answers = {
            name: _texts(value)
            for name, value in case.expected.items()
            if value.dtype.kind in _TEXT_KINDS
        }
        entry = {"signature": case.signature, "name": case.name, "texts": texts}
        entry |= {"answers": answers, "exact_zeros": list(case.exact_zeros)}
        index.append(entry)
        sides = ("in", case.inputs, texts), ("out", case.expected, answers)
        for side, tensors, written in sides:
            for key, value in tensors.items():
                if key not in written:
                    arrays[f"{number}/{side}/{key}"] = value
    arrays["index"] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    np.savez_compressed(file, allow_pickle=False, **arrays)


_TEXT_KINDS = "OSU"  # NumPy's kinds of arrays of text


def _texts(array: np.ndarray) -> list[Any]:
    """Converts an array of text to lists of `str`, which JSON can hold."""
    decode = np.vectorize(
        lambda x: x.decode(errors="replace") if isinstance(x, bytes) else str(x),
        otypes=[object],
    )
    return decode(array).tolist() if array.size else array.tolist()


def load_cases(file: Path) -> list[Case]:
    """Reads what `save_cases` wrote."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            "The artifact's verification cases cannot be read: the file is damaged or "
            f"missing. Export again. Received: {file}: {error}"
        ) from error
    cases = []
    for number, entry in enumerate(json.loads(arrays["index"].tobytes())):
        inputs = dict(entry["texts"])
        answers = entry.get("answers", {})
        expected = {key: np.array(texts, object) for key, texts in answers.items()}
        for name, array in arrays.items():
            owner, _, rest = name.partition("/")
            if owner == str(number):
                side, _, key = rest.partition("/")
                (inputs if side == "in" else expected)[key] = array
        zeros = tuple(entry["exact_zeros"])
        cases.append(Case(entry["signature"], entry["name"], inputs, expected, zeros))
    return cases
