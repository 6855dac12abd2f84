"""Several short texts in one row of training data."""

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np


def packed_rows(
    rows: Sequence[dict[str, np.ndarray]], targets: Sequence[Any] | None, length: int
) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Packs rows into as few rows of at most `length` tokens as best fit finds.

    The longest row comes first, and goes where the least space is left that holds it.

    Args:
        rows: One dict of arrays `[T]` per row.
        targets: One array `[T]` per row, or `None`.
        length: The largest number of tokens of a packed row.

    Returns:
        The packed rows, with `document_ids` from 1 on, and their targets; none if
        there were none.

    Raises:
        ValueError: If a row is longer than `length`.
    """
    sizes = [len(row["token_ids"]) for row in rows]
    if max(sizes) > length:
        raise ValueError(
            "Each text must fit into a packed row. Pack into longer rows, or shorten "
            f"the texts. Received: rows of {length} tokens, a text of {max(sizes)}"
        )
    packs = _best_fit(sizes, length)
    packed = [_joined([rows[item] for item in pack]) for pack in packs]
    if targets is None:
        return packed, []
    return packed, [np.concatenate([targets[i] for i in pack]) for pack in packs]


def _joined(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns rows one after the other, with the number of each from 1 on."""
    sizes = [len(row["token_ids"]) for row in rows]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    numbers = np.arange(1, len(rows) + 1, dtype="int32")
    return {**joined, "document_ids": np.repeat(numbers, sizes)}


def _best_fit(sizes: list[int], capacity: int) -> list[list[int]]:
    """Returns the numbers of the items in each pack."""
    packs: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (space left, number of the pack), sorted
    for item in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        place = bisect.bisect_left(spaces, (sizes[item], -1))
        if place < len(spaces):
            left, pack = spaces.pop(place)
        else:
            left, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(item)
        if left > sizes[item]:
            bisect.insort(spaces, (left - sizes[item], pack))
    return packs
