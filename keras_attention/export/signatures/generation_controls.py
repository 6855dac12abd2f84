"""Generation settings that are inputs of an artifact: one value per row."""

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
"""The inputs that choose how a row is generated.

Temperature 0 is greedy; `top_k` 0 and `top_p` 1 cut nothing.
"""


@dataclass(frozen=True)
class PerRowControls:
    """Processes logits with one temperature, top-k and top-p per row.

    Attributes:
        temperature: Float `[B]`; 0 is greedy.
        top_k: Int `[B]`; 0 cuts nothing.
        top_p: Float `[B]`; 1 cuts nothing.
    """

    temperature: Any
    top_k: Any
    top_p: Any

    def __call__(self, history: History, logits: Any) -> Any:
        size = logits.shape[-1]
        greedy = self.temperature == 0

        def most_likely():
            first = tf.argmax(logits, axis=-1)[:, None]
            return tf.where(tf.range(size, dtype=first.dtype) == first, 0.0, BLOCKED)

        def filtered():
            k = tf.where(self.top_k == 0, size, self.top_k)
            changed = Temperature(tf.where(greedy, 1.0, self.temperature))(
                history, logits
            )
            changed = TopK(k)(history, changed)
            cut = TopP(self.top_p)(history, changed)
            cut = tf.where(self.top_p[:, None] < 1, cut, changed)
            return tf.where(greedy[:, None], most_likely(), cut)

        return tf.cond(tf.reduce_all(greedy), most_likely, filtered)
