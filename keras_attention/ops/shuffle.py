"""A random order from a seed, without a generator: the same on every backend."""

from typing import Any

_PRIME = 46337
"""A prime p with p² < 2³¹. 3 does not divide p - 1, so x³ is a permutation mod p."""


def shuffled(row: Any, column: Any, seed: int) -> Any:
    """The rank of each column in the random order of its row.

    Within a row, columns that differ by less than 46,337 have different ranks.

    Args:
        row: Int32, any shape.
        column: Int32, broadcastable to `row`.
        seed: Any integer.

    Returns:
        Int32 from 0 to 46,336.
    """
    a, b, c, d = _constants(seed)
    first = _cube(_cube(row + a) + b)
    second = _cube(_cube(row + c) + d)
    return _cube(_cube(column + first) + second)


def _cube(x: Any) -> Any:
    """A permutation of 0 … 46,336 that is far from linear."""
    x = x % _PRIME
    return x * x % _PRIME * x % _PRIME


def _constants(seed: int, count: int = 4) -> list[int]:
    """Numbers below the prime, of Knuth's linear congruential generator of 64 bits."""
    numbers, state = [], seed % 2**64
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        numbers.append((state >> 33) % _PRIME)
    return numbers
