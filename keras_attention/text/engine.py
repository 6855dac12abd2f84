"""Encodes Python strings without a graph.

A call of TensorFlow takes a millisecond or more, however short the text is. Where the
library with which a tokenizer was made is installed, it answers calls with lists of
strings outside of graphs: it is what the graph is compared with. Everything else, and
every error, is the graph's.
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_attention.text.framing import Limits, Template

# Texts to a list of ids for each, and, if asked for, a list of (start, end).
Encode = Callable[[list[str], bool], tuple[list[list[int]], list[Any]] | None]


def hugging_face(specification: Any) -> Encode | None:
    """Returns the crate `tokenizers` with a `tokenizer.json`, if it can read it.

    Args:
        specification: The content of the file.
    """
    if importlib.util.find_spec("tokenizers") is None:
        return None
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(specification))
    except Exception:  # the crate has no other; what it cannot read, the graph can
        return None
    library.no_padding()
    library.no_truncation()
    fast = getattr(library, "encode_batch_fast", library.encode_batch)

    def encode(texts: list[str], with_offsets: bool) -> Any:
        if len(texts) == 1:
            found = [library.encode(texts[0], add_special_tokens=False)]
        else:
            batch = library.encode_batch if with_offsets else fast
            found = batch(texts, add_special_tokens=False)
        offsets = [one.offsets for one in found] if with_offsets else []
        return [one.ids for one in found], offsets

    return encode


def sentence_piece(model: bytes, ids: Sequence[int]) -> Encode | None:
    """Returns the library `sentencepiece` with a model, if it is installed.

    It answers calls without offsets only.

    Args:
        model: The content of the `.model` file.
        ids: The id of each piece.
    """
    if importlib.util.find_spec("sentencepiece") is None:
        return None
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    is_same = [*ids] == [*range(len(ids))]

    def encode(texts: list[str], with_offsets: bool) -> Any:
        if with_offsets:
            return None
        found = library.encode(texts)
        if not is_same:
            found = [[ids[piece] for piece in row] for row in found]
        return found, []

    return encode


def batch(
    encode: Encode,
    given: Sequence[Any],
    with_offsets: bool,
    template: Template,
    limits: Limits,
) -> dict[str, np.ndarray] | None:
    """Returns what `framing.frame` returns, or `None` where the graph must answer.

    Args:
        encode: The library.
        given: The texts, and the second texts if there are any.
        with_offsets: Whether `starts` and `ends` are wanted.
        template: The special tokens.
        limits: The maximal length and the sides.
    """
    for texts in given:
        if type(texts) not in {list, tuple} or not texts:
            return None
        if any(type(text) is not str for text in texts):
            return None
    if len({len(texts) for texts in given}) > 1:
        return None
    try:
        answers = [encode([*texts], with_offsets) for texts in given]
    except (TypeError, UnicodeError):  # a lone surrogate, which is no text
        return None
    found = [answer for answer in answers if answer is not None]
    if len(found) < len(given):
        return None
    if len(given) == 1 and len(given[0]) == 1 and not with_offsets:
        return _one_row(found[0][0][0], template, limits)
    cuts = [
        _cut([len(one[0][row]) for one in found], template, limits)
        for row in range(len(given[0]))
    ]
    if None in cuts:
        return None
    frame = functools.partial(_frame, cuts=cuts, limits=limits)
    parts = [*template[:3]]
    rows = frame([one[0] for one in found], parts)
    result = {"token_ids": _padded(rows, limits.pad_id, limits.padding_side)}
    ones = _padded([[1] * len(row) for row in rows], 0, limits.padding_side)
    result["padding_mask"] = ones.astype(bool)
    if template.has_segments:
        kinds = [
            [[number] * len(row) for row in one[0]] for number, one in enumerate(found)
        ]
        zeros = [[0] * len(part) for part in parts]
        zeros[2] = [len(found) - 1] * len(parts[2])
        segments = frame(kinds, zeros)
        result["segment_ids"] = _padded(segments, 0, limits.padding_side)
    for number, name in enumerate(("starts", "ends")[: 2 * with_offsets]):
        places = [[[span[number] for span in row] for row in one[1]] for one in found]
        places = frame(places, [[0] * len(part) for part in parts])
        result[name] = _padded(places, 0, limits.padding_side)
    return result


def _one_row(ids, template, limits):
    """Returns the batch of one text, for which every microsecond counts."""
    start, _, end, has_segments = template
    if limits.max_length is not None:
        room = limits.max_length - len(start) - len(end)
        if len(ids) > room:
            is_left = limits.truncation_side == "left"
            ids = ids[len(ids) - room :] if is_left else ids[:room]
    row = np.array([[*start, *ids, *end]], np.int32).reshape(1, -1)
    result = {"token_ids": row, "padding_mask": np.ones(row.shape, bool)}
    if has_segments:
        result["segment_ids"] = np.zeros_like(row)
    return result


def _cut(sizes, template, limits):
    """Returns how many tokens of each text remain; `None` where that is an error."""
    if limits.max_length is None:
        return sizes
    room = limits.max_length - len(template.start) - len(template.end)
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    room -= len(template.middle)
    if sum(sizes) <= room:
        return sizes
    if limits.truncation != "longest_first":
        chosen = ("only_first", "only_second").index(limits.truncation)
        left = room - sizes[1 - chosen]
        sizes[chosen] = left
        return sizes if left > 0 else None
    shorter = min(sizes)
    longer = max(room - shorter, shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return [longer, shorter] if sizes[0] > sizes[1] else [shorter, longer]


def _frame(columns, parts, *, cuts, limits):
    """Returns the rows of a column with the values of special tokens around them."""
    start, middle, end = (list(part) for part in parts)
    is_left = limits.truncation_side == "left"
    rows = []
    for number, sizes in enumerate(cuts):
        texts = []
        for column, size in zip(columns, sizes, strict=True):
            values = column[number]
            if len(values) > size:
                values = values[len(values) - size :] if is_left else values[:size]
            texts.append(values)
        row = start + texts[0]
        if len(texts) == 2:
            row += middle + texts[1]
        rows.append(row + end)
    return rows


def _padded(rows, fill, side):
    longest = max(map(len, rows))
    if side == "left":
        rows = [[fill] * (longest - len(row)) + row for row in rows]
    else:
        rows = [row + [fill] * (longest - len(row)) for row in rows]
    return np.array(rows, np.int32).reshape(len(rows), longest)
