"""The residual connection around a sub-layer, with its normalisation."""

from typing import Any, Literal

import keras

from keras_attention.layers.building import built_once
from keras_attention.layers.layer_normalization import LayerNormalization
from keras_attention.layers.rms_normalization import RMSNormalization

NORMALIZATIONS = {"layer": LayerNormalization, "rms": RMSNormalization}


@keras.saving.register_keras_serializable("keras_attention")
class Residual(keras.layers.Layer):
    """x + f(norm(x)) ("pre") or norm(x + f(x)) ("post").

    Reference: He et al., 2015 (arXiv:1512.03385); the two orders: Xiong et al., 2020
    (arXiv:2002.04745).

    Args:
        norm: The place of the normalisation: `"pre"` or `"post"`.
        epsilon: The epsilon of the normalisation.
        dropout: Rate of dropout on f's output.
        seed: Seed of that dropout.
        normalization: The kind of normalisation: `"layer"` or `"rms"`.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    A block calls `enter` before the sub-layer and `leave` after it:

    >>> residual = Residual(norm="pre")
    >>> x = np.ones((1, 2, 4), "float32")
    >>> residual.build(x.shape)
    >>> tuple(residual.leave(x, 2.0 * residual.enter(x)).shape)
    (1, 2, 4)
    """

    def __init__(
        self,
        *,
        norm: Literal["pre", "post"] = "post",
        epsilon: float = 1e-5,
        dropout: float = 0.0,
        seed: int | None = None,
        normalization: Literal["layer", "rms"] = "layer",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if norm not in ("pre", "post"):
            raise ValueError(f"`norm` must be 'pre' or 'post'. Received: norm={norm!r}")
        self.norm, self.epsilon, self.dropout, self.seed = norm, epsilon, dropout, seed
        self.normalization_kind = normalization
        self.normalization = make_normalization(
            normalization,
            epsilon=epsilon,
            name="normalization",
            dtype=self.dtype_policy,
        )
        self._dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy
        )

    @built_once
    def build(self, x_shape):
        if not self.normalization.built:
            self.normalization.build(x_shape)
        self.built = True

    def enter(self, x: Any) -> Any:
        """Returns the input of the sub-layer, `[B, T, E]`."""
        return self.normalization(x) if self.norm == "pre" else x

    def leave(self, x: Any, output: Any, training: bool | None = None) -> Any:
        """Returns the residual sum of `x` and the sub-layer's output, `[B, T, E]`."""
        x = x + self._dropout_layer(output, training=training)
        return self.normalization(x) if self.norm == "post" else x

    def get_config(self):
        return {
            **super().get_config(),
            "norm": self.norm,
            "epsilon": self.epsilon,
            "dropout": self.dropout,
            "seed": self.seed,
            "normalization": self.normalization_kind,
        }


def make_normalization(kind: str, **settings: Any) -> keras.layers.Layer:
    """Makes the normalisation layer of that kind.

    Args:
        kind: `"layer"` or `"rms"`.
        **settings: Arguments of the layer.
    """
    if kind not in NORMALIZATIONS:
        raise ValueError(
            "`normalization` must be 'layer' or 'rms'. "
            f"Received: normalization={kind!r}"
        )
    return NORMALIZATIONS[kind](**settings)
