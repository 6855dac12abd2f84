"""Rotary position embedding: pairs of features are rotated by an angle of the position.

The product of a rotated query and a rotated key depends on the difference of their
positions only. Scalings stretch the angles for sequences that are longer than those in
training; they are described as in Hugging Face's `rope_scaling`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_attention.ops.attend import score_dtype
from keras_attention.ops.backend.regions import region
from keras_attention.ops.backend.shapes import largest
from keras_attention.ops.heads import merge_features, split_features
from keras_attention.ops.positions import (
    EMPTY,
    sine_and_cosine,
    turns_per_position,
)


@dataclass(frozen=True)
class Frequencies:
    """The rotation of each pair of features from one position to the next.

    Attributes:
        turns: Float64 `[R / 2]`, in turns (fractions of 2π).
        attention_factor: The factor of sines and cosines (YaRN).
    """

    turns: np.ndarray
    attention_factor: float = 1.0

    def sine_and_cosine(self, positions: Any, dtype: str) -> tuple[Any, Any]:
        """Returns the sines and cosines of the angles, two tensors `[(B,) T, R / 2]`.

        Args:
            positions: Int `[T]` or `[B, T]`.
            dtype: `"float32"` or `"float64"`.
        """
        sine, cosine = sine_and_cosine(positions, self.turns, dtype=dtype)
        if self.attention_factor == 1.0:
            return sine, cosine
        return sine * self.attention_factor, cosine * self.attention_factor


@dataclass(frozen=True, kw_only=True)
class DynamicFrequencies(Frequencies):
    """Frequencies that fall as a sequence grows beyond the trained length.

    Attributes:
        exponents: Float64 `[R / 2]`, the exponents of the stretch of the base.
        factor: The stretch per trained length.
        original_length: The trained length.
    """

    exponents: np.ndarray
    factor: float
    original_length: float

    def sine_and_cosine(self, positions, dtype):
        last = largest(positions, -1, least=EMPTY, keepdims=True)  # [(B,) 1]
        length = ops.maximum(ops.cast(last, "float64") + 1.0, self.original_length)
        stretch = length * (self.factor / self.original_length) - (self.factor - 1.0)
        exponents = ops.convert_to_tensor(-self.exponents)
        turns = ops.power(stretch[..., None], exponents)
        turns = turns * ops.convert_to_tensor(self.turns)
        return sine_and_cosine(positions, turns, dtype=dtype)


def rotary_frequencies(
    size: int, *, max_wavelength: float = 10000.0, scaling: dict | None = None
) -> Frequencies:
    """The frequencies of a head, scaled as described in a checkpoint's config.json.

    Args:
        size: The number of rotated features, even.
        max_wavelength: The largest wavelength over 2π, "theta" or "base".
        scaling: The scaling, see `RotaryEmbedding`; or `None`.
    """
    kind, settings = check_scaling(scaling)
    turns = turns_per_position(size, max_wavelength)
    return _KINDS[kind].scale(turns, max_wavelength, **settings)


def rotate(
    heads: Any,
    positions: Any,
    *,
    key_dim: int,
    frequencies: Frequencies,
    interleaved: bool = False,
) -> Any:
    """Rotates the pairs of features of every head by the angles of its position.

    Args:
        heads: `[B, T, N * H]`.
        positions: Int `[T]` or `[B, T]`.
        key_dim: H.
        frequencies: The frequencies of the first R features of each head; the other
            features are not changed.
        interleaved: Whether feature 2i is paired with 2i + 1; otherwise i is paired
            with i + R / 2.

    Returns:
        `[B, T, N * H]` in the dtype of `heads`; angles and products are float32, or
        float64 for float64.

    Reference: Su et al., "RoFormer", 2021 (arXiv:2104.09864).
    """
    sine, cosine = frequencies.sine_and_cosine(positions, score_dtype(heads))
    if len(cosine.shape) == 2:
        sine, cosine = sine[None], cosine[None]  # [1, T, R / 2]
    return region(
        "rotary_embedding",
        _rotate,
        heads,
        cosine,
        sine,
        num_heads=heads.shape[-1] // key_dim,
        rotary_embedding_dim=2 * len(frequencies.turns),
        interleaved=interleaved,
    )


def _rotate(heads, cosine, sine, *, num_heads, rotary_embedding_dim, interleaved):
    sizes = ops.shape(heads)[:2]
    x = split_features(heads, num_heads, sizes)  # [B, T, N, H]
    rotated, rest = x[..., :rotary_embedding_dim], x[..., rotary_embedding_dim:]
    split, join = _PAIRS[interleaved]
    first, second = split(ops.cast(rotated, cosine.dtype))  # [B, T, N, R / 2]
    cosine, sine = cosine[:, :, None], sine[:, :, None]  # [B or 1, T, 1, R / 2]
    rotated = join(first * cosine - second * sine, second * cosine + first * sine)
    rotated = ops.cast(rotated, heads.dtype)
    if rotary_embedding_dim < x.shape[-1]:
        rotated = ops.concatenate([rotated, rest], axis=-1)  # [B, T, N, H]
    return merge_features(rotated, sizes)  # [B, T, N * H]


def _split_halves(x):
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _join_halves(first, second):
    return ops.concatenate([first, second], axis=-1)


def _split_neighbours(x):
    return x[..., 0::2], x[..., 1::2]


def _join_neighbours(first, second):
    pairs = ops.stack([first, second], axis=-1)  # [..., R / 2, 2]
    return ops.reshape(pairs, (*ops.shape(pairs)[:-2], 2 * pairs.shape[-2]))


_PAIRS = {
    False: (_split_halves, _join_halves),
    True: (_split_neighbours, _join_neighbours),
}


def check_scaling(scaling: dict | None) -> tuple[str, dict[str, Any]]:
    """Returns the kind of scaling and its settings; raises an error if it is unknown.

    Args:
        scaling: The `rope_scaling` of a config.json, or `None`.

    Returns:
        `(kind, settings)`, without settings that are `None`.
    """
    given = {k: v for k, v in (scaling or {}).items() if v is not None}
    kinds = {given.pop(key) for key in ("rope_type", "type") if key in given}
    if not kinds and not scaling:
        kinds = {"default"}
    if len(kinds) != 1 or not kinds <= set(_KINDS):
        raise ValueError(
            "`scaling` must name one kind as its 'rope_type', of "
            f"{', '.join(map(repr, _KINDS))}. Received: scaling={scaling!r}"
        )
    (name,) = kinds
    kind = _KINDS[name]
    missing = [key for key in kind.required if key not in given]
    unknown = [key for key in given if key not in kind.required + kind.optional]
    if missing or unknown:
        raise ValueError(
            f"`scaling` of rope_type '{name}' "
            + (f"needs {_quoted(missing)}" if missing else "")
            + (" and " if missing and unknown else "")
            + (f"has no {_quoted(unknown)}" if unknown else "")
            + f". It takes {_quoted(kind.required + kind.optional) or 'nothing else'}."
            " In a config.json, a length that is missing here is "
            "'max_position_embeddings', 'rope_theta' is `max_wavelength`, and "
            "'partial_rotary_factor' times the size of a head is `rotary_dim`. "
            f"Received: scaling={scaling!r}"
        )
    _check_values(scaling, given)
    return name, given


def _quoted(names):
    return ", ".join(f"'{name}'" for name in names)


def _check_values(scaling, given):
    for key, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = {"factor": 1.0, "mscale": 0.0, "mscale_all_dim": 0.0}.get(key)
        right = number and (value > 0 if least is None else value >= least)
        if key == "truncate":
            right = isinstance(value, bool)
        if not right:
            raise ValueError(
                f"`scaling` has a '{key}' that is not possible: 'truncate' is a bool, "
                "'factor' a number of 1 or more, all others are positive numbers. "
                f"Received: scaling={scaling!r}"
            )
    if given.get("low_freq_factor", 0.0) >= given.get("high_freq_factor", math.inf):
        raise ValueError(
            "`scaling` needs a 'high_freq_factor' above its 'low_freq_factor'. "
            f"Received: scaling={scaling!r}"
        )


@dataclass(frozen=True)
class _Kind:
    scale: Callable[..., Frequencies]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def _default(turns, base):
    return Frequencies(turns)


def _linear(turns, base, *, factor):
    """Chen et al., "Position Interpolation", 2023 (arXiv:2306.15595)."""
    return Frequencies(turns / factor)


def _dynamic(turns, base, *, factor, original_max_position_embeddings):
    """Dynamic NTK: the base grows with the sequence (arXiv:2309.00071, B.2)."""
    size = 2 * len(turns)
    if size < 4:
        raise ValueError(
            "'dynamic' scaling needs 4 or more rotated features. "
            f"Received: rotary_dim={size}"
        )
    return DynamicFrequencies(
        turns=turns,
        exponents=np.arange(0, size, 2, dtype="float64") / (size - 2),
        factor=float(factor),
        original_length=float(original_max_position_embeddings),
    )


def _yarn(
    turns,
    base,
    *,
    factor,
    original_max_position_embeddings,
    beta_fast=32.0,
    beta_slow=1.0,
    attention_factor=None,
    mscale=0.0,
    mscale_all_dim=0.0,
    truncate=True,
):
    """Peng et al., "YaRN", 2023 (arXiv:2309.00071), section 3.

    Pairs that turn more than `beta_fast` times in the trained length are not changed,
    pairs that turn less than `beta_slow` times are interpolated, and between the two
    there is a linear ramp.
    """
    size = 2 * len(turns)

    def pair_that_turns(times):
        reach = original_max_position_embeddings / (2.0 * math.pi * times)
        return size * math.log(reach) / (2.0 * math.log(base))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high = high + 0.001 if low == high else high
    interpolated = np.clip((np.arange(size // 2) - low) / (high - low), 0.0, 1.0)
    turns = turns * (interpolated / factor + (1.0 - interpolated))
    if attention_factor is None:
        both = mscale and mscale_all_dim
        attention_factor = _temperature(factor, mscale if both else 1.0)
        attention_factor /= _temperature(factor, mscale_all_dim) if both else 1.0
    return Frequencies(turns, float(attention_factor))


def _temperature(factor, strength):
    """The square root of 1/t of YaRN, section 3.4."""
    return 0.1 * strength * math.log(factor) + 1.0


def _llama3(
    turns,
    base,
    *,
    factor,
    low_freq_factor,
    high_freq_factor,
    original_max_position_embeddings,
):
    """Llama 3.1: slow pairs are interpolated, fast ones are not changed."""
    turned = original_max_position_embeddings * turns  # turns in the trained length
    unchanged = (turned - low_freq_factor) / (high_freq_factor - low_freq_factor)
    unchanged = np.clip(unchanged, 0.0, 1.0)
    return Frequencies(turns * ((1.0 - unchanged) / factor + unchanged))


_LENGTH = "original_max_position_embeddings"
_KINDS = {
    "default": _Kind(_default),
    "linear": _Kind(_linear, ("factor",)),
    "dynamic": _Kind(_dynamic, ("factor", _LENGTH)),
    "yarn": _Kind(
        _yarn,
        ("factor", _LENGTH),
        (
            "beta_fast",
            "beta_slow",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
    "llama3": _Kind(
        _llama3, ("factor", "low_freq_factor", "high_freq_factor", _LENGTH)
    ),
}
