"""Makes one batch of the tokens of each text: truncation, special tokens, padding.

Nothing here depends on the kind of tokenizer. Rows are built of indices into one pool
of tokens, so that ids, offsets and word numbers are all gathered by the same index.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

SIDES = ("right", "left")
STRATEGIES = ("longest_first", "only_first", "only_second")


class Pieces(NamedTuple):
    """The tokens of a batch: ids `[N]` and row splits `[B + 1]`.

    `extras` are further columns `[N]`, such as `starts` and `ends`, which are 0 for
    special tokens.
    """

    ids: tf.Tensor
    row_splits: tf.Tensor
    extras: Mapping[str, tf.Tensor]


class Template(NamedTuple):
    """The special token ids before, between and after texts.

    A row is `start text end`, and a pair `start text middle pair end`. If
    `has_segments`, the second text and its end have segment 1.
    """

    start: Sequence[int] = ()
    middle: Sequence[int] = ()
    end: Sequence[int] = ()
    has_segments: bool = False


class Limits(NamedTuple):
    """How rows are truncated and padded."""

    max_length: int | None
    pad_id: int
    padding_side: str = "right"
    truncation_side: str = "right"
    truncation: str = "longest_first"


def check_limits(limits: Limits, template: Template) -> None:
    """Refuses unknown names, and a length with no room for a pair's special tokens."""
    for name, value, allowed in (
        ("padding_side", limits.padding_side, SIDES),
        ("truncation_side", limits.truncation_side, SIDES),
        ("truncation", limits.truncation, STRATEGIES),
    ):
        if value not in allowed:
            raise ValueError(
                f"{name} is one of {', '.join(map(repr, allowed))}. Choose one of "
                f"them. Received: {name}={value!r}"
            )
    least = max(1, sum(map(len, template[:3])))
    length = limits.max_length
    is_integer = isinstance(length, int) and not isinstance(length, bool)
    if length is not None and (not is_integer or length < least):
        raise ValueError(
            f"max_length is an integer of at least {least} (the special tokens of a "
            "pair) or None. Choose a larger one. "
            f"Received: max_length={length!r}"
        )


def frame(
    first: Pieces, second: Pieces | None, template: Template, limits: Limits
) -> dict[str, tf.Tensor]:
    """Returns one batch `[B, T]`, which is as long as its longest row."""
    start, middle, end = (list(ids) for ids in template[:3])
    special = [limits.pad_id, *start, *middle, *end]
    texts = [first] if second is None else [first, second]
    rows = []
    begin = len(special)
    for one in texts:
        index = tf.range(tf.size(one.ids, tf.int64)) + begin
        splits = tf.cast(one.row_splits, tf.int64)
        rows.append(tf.RaggedTensor.from_row_splits(index, splits, validate=False))
        begin = begin + tf.size(one.ids, tf.int64)
    rows = _truncate(rows, template, limits)
    num_rows = rows[0].nrows()
    parts: list[Any] = [_constant_rows(num_rows, 1, len(start)), rows[0]]
    if second is not None:
        parts += [_constant_rows(num_rows, 1 + len(start), len(middle)), rows[1]]
    parts.append(_constant_rows(num_rows, 1 + len(start) + len(middle), len(end)))
    joined: Any = tf.concat(parts, 1)  # [B, None]
    index = joined.to_tensor(0)  # [B, T]
    position = tf.range(tf.shape(index, tf.int64)[1])[None]  # [1, T]
    lengths = joined.row_lengths()[:, None]  # [B, 1]
    if limits.padding_side == "left":
        position -= tf.shape(index, tf.int64)[1] - lengths  # [B, T]
        index = tf.gather(index, tf.maximum(position, 0), batch_dims=1)
        index = tf.where(position >= 0, index, 0)
    padding_mask = (position >= 0) & (position < lengths)  # [B, T]
    batch = {
        "token_ids": _gather([one.ids for one in texts], special, index),
        "padding_mask": padding_mask,
    }
    if template.has_segments:
        boundary = len(start) + rows[0].row_lengths() + len(middle)
        in_second = padding_mask & (position >= boundary[:, None])
        is_pair = second is not None
        segments = tf.cast(in_second & is_pair, tf.int32)
        batch["segment_ids"] = segments
    for name in first.extras:
        filler = [-1 if name == "word_ids" else 0] * len(special)
        batch[name] = _gather([one.extras[name] for one in texts], filler, index)
    return batch


def _constant_rows(num_rows: tf.Tensor, first: int, count: int) -> tf.Tensor:
    index = tf.range(first, first + count, dtype=tf.int64)[None]
    return tf.tile(index, [num_rows, 1])


def _gather(columns: list[tf.Tensor], special: list[int], index: Any) -> tf.Tensor:
    columns = [tf.cast(column, tf.int32) for column in columns]
    return tf.gather(tf.concat([tf.constant(special, tf.int32), *columns], 0), index)


def _truncate(rows: list[Any], template: Template, limits: Limits) -> list[Any]:
    if limits.max_length is None:
        return rows
    num_special = len(template.start) + len(template.end)
    if len(rows) == 2:
        num_special += len(template.middle)
    room = tf.constant(limits.max_length - num_special, tf.int64)
    lengths = [row.row_lengths() for row in rows]
    if limits.truncation == "longest_first":
        counts = [room] if len(rows) == 1 else _longest_first(lengths, room)
    else:
        counts = _only(lengths, room, limits.truncation)
    return [
        _at_most(row, count, limits.truncation_side)
        for row, count in zip(rows, counts, strict=True)
    ]


def _at_most(row: Any, count: tf.Tensor, side: str) -> Any:
    """Returns at most `count` tokens of each row."""
    lengths = tf.minimum(row.row_lengths(), count)
    starts = row.row_starts()
    if side == "left":
        starts = starts + row.row_lengths() - lengths
    index = tf.ragged.range(starts, starts + lengths)
    return index.with_values(tf.gather(row.values, index.values))


def _longest_first(lengths: list[Any], room: tf.Tensor) -> list[tf.Tensor]:
    """Shortens the longer text to the shorter one's length, then both alike."""
    first, second = lengths
    shorter = tf.minimum(first, second)
    is_too_long = first + second > room
    longer = tf.where(
        is_too_long, tf.maximum(room - shorter, shorter), tf.maximum(first, second)
    )
    half = room // 2
    both = is_too_long & (shorter + longer > room)
    shorter = tf.where(both, half, shorter)
    longer = tf.where(both, room - half, longer)
    is_first_longer = first > second
    return [
        tf.where(is_first_longer, longer, shorter),
        tf.where(is_first_longer, shorter, longer),
    ]


def _only(lengths: list[Any], room: tf.Tensor, strategy: str) -> list[Any]:
    """Shortens one of the two texts; raises where the other alone is too long."""
    if len(lengths) == 1:
        return [room]
    chosen = ("only_first", "only_second").index(strategy)
    left = room - lengths[1 - chosen]
    is_too_long = lengths[0] + lengths[1] > room
    check = tf.debugging.assert_equal(
        tf.reduce_any(is_too_long & (left <= 0)),
        False,
        message=f"truncation={strategy!r} shortens one text of a pair, and the other "
        "alone is too long. Choose truncation='longest_first' or a larger "
        "max_length. Received: a text of max_length tokens or more",
    )
    with tf.control_dependencies([check] if check is not None else []):
        left = tf.identity(left)
    counts = [lengths[0], lengths[1]]
    counts[chosen] = tf.maximum(left, 0)
    return counts
