"""Rotary position embeddings."""

import math
from typing import Any, Literal

import keras
from keras import ops

from keras_attention.layers.position_scheme import PositionScheme
from keras_attention.ops.positions import standardize_positions
from keras_attention.ops.rotary import check_scaling, rotary_frequencies, rotate

_LAYOUTS = {"half_split": False, "interleaved": True}


@keras.saving.register_keras_serializable("keras_attention")
class RotaryEmbedding(PositionScheme):
    """Rotates pairs of features of queries and keys by an angle for their position.

    The product of a rotated query and a rotated key depends on the difference of their
    positions only. Pass it to an attention layer as `position=`, or call it on the
    queries and the keys (not on the values).

    Angles are computed from integer positions in float32 for every dtype, with an error
    of 1e-6 at positions up to 1e5 and more.

    `scaling` is the `rope_scaling` of a checkpoint's config.json, for sequences longer
    than those it was trained on. Its `rope_type` and other entries are:

    * `"linear"`: `factor`. Positions are divided by it (arXiv:2306.15595).
    * `"dynamic"`: `factor`, `original_max_position_embeddings`. NTK: the base grows
      with the length of each row, its largest position + 1, if that is beyond the
      trained length. The error is 1e-6 if the backend has float64, and 1e-2 at position
      1e5 in JAX without its `jax_enable_x64`.
    * `"yarn"`: `factor`, `original_max_position_embeddings`; `beta_fast`, `beta_slow`,
      `attention_factor`, `mscale`, `mscale_all_dim`, `truncate` (arXiv:2309.00071).
    * `"llama3"`: `factor`, `low_freq_factor`, `high_freq_factor`,
      `original_max_position_embeddings` (Llama 3.1).
    * `"default"`: no scaling.

    Where a config.json has no `original_max_position_embeddings`, Hugging Face uses
    its `max_position_embeddings`; here it must be in the dict.

    Reference: Su et al., "RoFormer", 2021 (arXiv:2104.09864).

    Args:
        max_wavelength: Longest wavelength divided by 2π, `rope_theta` in a config.json.
        layout: `"half_split"` pairs feature i with i + rotary_dim / 2 (GPT-NeoX, Llama
            in Hugging Face's files), `"interleaved"` 2i with 2i + 1 (the paper, GPT-J,
            Llama in Meta's files).
        rotary_dim: Number of features of each head that are rotated, from the first
            on; all when `None`.
        scaling: The scaling described above, or `None`.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `[B, T, H]`, or heads `[B, T, N, H]`.
        positions: Int `[T]` or `[B, T]`; 0, 1, 2, … when not given.

    Returns:
        The same shape.

    Example:
    >>> layer = ka.RotaryEmbedding()
    >>> query, key = np.random.rand(2, 1, 1, 8).astype("float32")
    >>> def product(m, n):
    ...     turned = layer(query, positions=[m]), layer(key, positions=[n])
    ...     return np.sum(turned[0] * turned[1])
    >>> bool(np.isclose(product(7, 3), product(100_007, 100_003), atol=1e-5))
    True
    """

    def __init__(
        self,
        max_wavelength: float = 10000.0,
        *,
        layout: Literal["half_split", "interleaved"] = "half_split",
        rotary_dim: int | None = None,
        scaling: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if max_wavelength <= 1:
            raise ValueError(
                "`max_wavelength` must be above 1. "
                f"Received: max_wavelength={max_wavelength}"
            )
        if layout not in _LAYOUTS:
            raise ValueError(
                "`layout` must be 'half_split' or 'interleaved'. "
                f"Received: layout={layout!r}"
            )
        kind, _ = check_scaling(scaling)
        self.max_wavelength = max_wavelength
        self.layout = layout
        self.rotary_dim = rotary_dim
        self.scaling = scaling
        self.depends_on_length = kind == "dynamic"
        self.supports_masking = True

    def build(self, heads_shape):
        """Computes the frequencies. Layers that share a scheme each call it.

        Args:
            heads_shape: Any shape that ends with the size of a head.
        """
        key_dim = heads_shape[-1]
        self._check_size(key_dim)
        rotary_dim = key_dim if self.rotary_dim is None else self.rotary_dim
        if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > key_dim:
            raise ValueError(
                f"'{self.name}' rotates pairs of features: `rotary_dim` (the size of a "
                "head when not given) must be even, 2 or more, and at most the size of "
                f"a head, {key_dim}. Received: rotary_dim={rotary_dim}"
            )
        self._key_dim = key_dim
        self._frequencies = rotary_frequencies(
            rotary_dim, max_wavelength=self.max_wavelength, scaling=self.scaling
        )
        self.built = True

    def call(self, inputs, positions=None):
        batch, length = ops.shape(inputs)[:2]
        positions = standardize_positions(positions, length=length)
        self._check_size(inputs.shape[-1])
        size = math.prod(inputs.shape[2:])
        heads = ops.reshape(inputs, (batch, length, size))  # [B, T, N * H]
        return ops.reshape(self.rotate(heads, positions), ops.shape(inputs))

    def _check_size(self, key_dim):
        if getattr(self, "_key_dim", key_dim) != key_dim:
            raise ValueError(
                f"'{self.name}' was built for heads of size {self._key_dim}; layers "
                f"that share it must have the same. Received: key_dim={key_dim}"
            )

    def rotate(self, heads, positions):
        return rotate(
            heads,
            positions,
            key_dim=self._key_dim,
            frequencies=self._frequencies,
            interleaved=_LAYOUTS[self.layout],
        )

    def compute_output_shape(self, inputs_shape, positions_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "layout": self.layout,
            "rotary_dim": self.rotary_dim,
            "scaling": None if self.scaling is None else dict(self.scaling),
        }
