"""The grid of cases an artifact is verified on, and the file that holds them.

The cases are stored in the artifact, so that it can be verified again on a machine that
has the runtime and nothing else. This module needs neither TensorFlow nor Keras.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention import untrusted
from keras_attention.export.cases.arrays import read_arrays

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

    These are the signature's own examples. If it has none: batch 1 and 3; a short, an
    odd and a long length, different ones for different axes; no padding, padding on the
    right and on the left, and a row that is all padding.

    Args:
        signature: A `Signature`.
        length_buckets: Further lengths to test.
    """
    zeros = signature.exact_zeros
    if signature.examples is not None:
        for name, inputs, expected in signature.examples():
            yield Case(signature.name, name, inputs, expected or {}, zeros)
        return
    for number, inputs in enumerate(signature.samples, 1):
        yield Case(signature.name, f"sample {number} of the user", inputs, {}, zeros)
    if signature.takes_text:
        yield from _texts_of(signature, length_buckets)
        return
    for seed, (name, sizes, masks) in enumerate(_shapes(signature, length_buckets)):
        random = np.random.default_rng(seed)
        inputs = {}
        for key, info in signature.inputs.items():
            mask = masks.get(info.shape[1]) if len(info.shape) == 2 else None
            inputs[key] = random_values(
                key,
                info,
                signature=signature,
                sizes=sizes,
                padding_mask=np.ones((), bool) if mask is None else mask,
                random=random,
            )
        yield Case(signature.name, name, inputs, {}, zeros)


def _texts_of(signature, length_buckets):
    """Texts for every input that is one, next to drawn numbers for the others."""
    # One token per word, and up to three special tokens around them.
    more = {f"{n - 3} words": ["a " * (n - 3)] for n in length_buckets if n > 3}
    for seed, (name, texts) in enumerate((TEXTS | more).items()):
        # Attention maps of long texts are large; a long word is one token.
        chosen = texts[-1:] if _has_maps(signature) else texts
        sizes = {axis: lengths[0] for axis, lengths in _lengths_of(signature).items()}
        sizes["batch"] = len(chosen)
        random = np.random.default_rng(seed)
        inputs = {}
        for place, (key, info) in enumerate(signature.inputs.items()):
            if info.dtype == "string":
                turned = chosen[place:] + chosen[:place]
                inputs[key] = _reshaped(turned, info, sizes)
            else:
                inputs[key] = random_values(
                    key,
                    info,
                    signature=signature,
                    sizes=sizes,
                    padding_mask=np.ones((), bool),
                    random=random,
                )
        yield Case(signature.name, name, inputs, {}, signature.exact_zeros)


def _reshaped(texts: list[str], info, sizes) -> list[Any]:
    """Texts `[batch]` in the shape of an input: `[batch, 1]` in many Keras models."""
    shape = [sizes[a] if isinstance(a, str) else a for a in info.shape]
    if len(shape) == 1:
        return texts
    inner = int(np.prod(shape[1:]))
    rows = [
        [texts[(row + i) % len(texts)] for i in range(inner)]
        for row in range(len(texts))
    ]
    return np.array(rows, object).reshape(len(texts), *shape[1:]).tolist()


def _lengths_of(signature) -> dict[str, list[int]]:
    """A short, an odd and a long size of each free axis, of those that it may have."""
    axes = [a for i in signature.inputs.values() for a in i.shape if isinstance(a, str)]
    # Maps grow with the square of the length: a shorter long case keeps files small.
    limit = 33 if _has_maps(signature) else 129
    lengths = {}
    for axis in dict.fromkeys(axes):
        longest = min(limit, signature.max_lengths.get(axis, limit))
        known = signature.lengths.get(axis, (1, 7, longest))
        known = [size for size in known if size <= longest] or [known[0]]
        middle = min(known, key=lambda size: abs(size - 7))
        if axis != "batch":
            lengths[axis] = [known[0], middle, known[-1]]
    return lengths


def _shapes(signature, length_buckets):
    """Yields `(name, size of each axis, padding mask of each size or axis)`.

    Where there are several free axes, they have different sizes in every case.
    """
    lengths = _lengths_of(signature)
    # Ids without a mask input have an implicit one: id 0 is padding.
    masked = any(
        info.dtype == "bool" or name in signature.limits
        for name, info in signature.inputs.items()
    )
    widths = [
        info.shape[1] for info in signature.inputs.values() if len(info.shape) == 2
    ]
    free = any("batch" in info.shape for info in signature.inputs.values())

    def case(batch, sizes, padding, rows: int | slice = slice(0, 0)):
        masks = {}
        for width in widths:
            size = width if isinstance(width, int) else sizes.get(width, batch)
            masks[width] = _padding_mask(batch, size, padding)
            masks[width][rows] = False
        return {**sizes, "batch": batch}, masks

    turns = range(3) if lengths else range(1)
    for batch in (1, 3) if free else (1,):
        for turn in turns:
            sizes = _turned(lengths, turn)
            for padding in ("no", "right", "left") if masked else ("no",):
                about = f"{_in_words(sizes)}, {padding} padding"
                yield f"batch {batch}, {about}", *case(batch, sizes, padding)
    if masked:
        sizes = _turned(lengths, 1)
        if free:
            one = case(3, sizes, "right", rows=1)
            yield "one row of three is all padding", *one
        yield "the only row is all padding", *case(1, sizes, "no", rows=slice(None))
    longest = max([size for sizes in lengths.values() for size in sizes], default=0)
    for length in length_buckets if lengths else ():
        if length <= longest or not _has_maps(signature):
            sizes = dict.fromkeys(lengths, length)
            yield f"length {length}", *case(1, sizes, "no")


def _turned(lengths: dict[str, list[int]], turn: int) -> dict[str, int]:
    return {
        axis: sizes[(place + turn) % 3]
        for place, (axis, sizes) in enumerate(lengths.items())
    }


def _in_words(sizes: dict[str, int]) -> str:
    if len(sizes) == 1:
        return f"length {next(iter(sizes.values()))}"
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items()) or "length 1"


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
        highest = signature.drawn_below.get(name, 2)
        values = random.integers(0, signature.limits.get(name, highest), shape)
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


def load_cases(file: Path, max_bytes: int | None = None) -> list[Case]:
    """Reads what `save_cases` wrote.

    Args:
        file: The path of the file.
        max_bytes: See `read_arrays`.
    """
    arrays = read_arrays(file, max_bytes)
    by_case: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        owner, _, rest = name.partition("/")
        by_case.setdefault(owner, {})[rest] = array
    cases = []
    with untrusted.reading(file):
        index = untrusted.parse_json(arrays["index"].tobytes(), file)
        for number, entry in enumerate(index):
            inputs = _lists(entry["texts"])
            answers = _lists(entry.get("answers", {}))
            expected = {key: np.array(text, object) for key, text in answers.items()}
            for rest, array in by_case.get(str(number), {}).items():
                side, _, key = rest.partition("/")
                (inputs if side == "in" else expected)[key] = array
            names = (entry["signature"], entry["name"], *entry["exact_zeros"])
            if not all(isinstance(name, str) for name in names):
                raise TypeError(f"names of a case must be strings, not {names!r:.200}")
            zeros = tuple(entry["exact_zeros"])
            cases.append(Case(*names[:2], inputs, expected, zeros))
    return cases


def _lists(texts: Any) -> dict[str, Any]:
    """Returns a copy of a dict of lists of texts, or raises a TypeError."""
    # One text alone is the answer of an output without axes.
    if any(not isinstance(text, list | str) for text in texts.values()):
        raise TypeError(f"texts must be in lists, not {texts!r:.200}")
    return dict(texts)
