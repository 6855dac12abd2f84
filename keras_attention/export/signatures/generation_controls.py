"""What each row of a request chooses for itself when an artifact generates."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_attention.export.signatures.signature import TensorInfo
from keras_attention.generation.filters import Temperature, TopK, TopP
from keras_attention.generation.history import History
from keras_attention.ops.attend import BLOCKED

CONTROLS = {
    "max_new_tokens": TensorInfo("int32", ("batch",)),
    "temperature": TensorInfo("float32", ("batch",)),
    "top_k": TensorInfo("int32", ("batch",)),
    "top_p": TensorInfo("float32", ("batch",)),
    "seed": TensorInfo("int32", ("batch",)),
}
"""What a request chooses; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing."""


@dataclass(frozen=True)
class ByRow:
    """Temperature, top-k and top-p of each row, `[B]`; temperature 0 is greedy."""

    temperature: Any
    top_k: Any
    top_p: Any

    def __call__(self, history: History, logits: Any) -> Any:
        size = logits.shape[-1]
        greedy = self.temperature == 0

        def best():
            first = tf.argmax(logits, axis=-1)[:, None]
            return tf.where(tf.range(size, dtype=first.dtype) == first, 0.0, BLOCKED)

        def drawn():
            k = tf.where(self.top_k == 0, size, self.top_k)
            changed = Temperature(tf.where(greedy, 1.0, self.temperature))(
                history, logits
            )
            changed = TopK(k)(history, changed)
            cut = TopP(self.top_p)(history, changed)
            cut = tf.where(self.top_p[:, None] < 1, cut, changed)
            return tf.where(greedy[:, None], best(), cut)

        return tf.cond(tf.reduce_all(greedy), best, drawn)
