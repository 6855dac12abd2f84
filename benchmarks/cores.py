"""Local and long attention, ours and the peers': the same inputs, the same numbers.

Candidates are defined here by name; each is built and called in a process of its own
(worker.py).
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

HEADS, SIZE = 8, 64
PIP_LINE = 'pip install "keras-attention-layers[bench-torch]"'
PACKAGES = {"torch SDPA": "torch", "lucidrains local-attention": "local_attention"}


@dataclass(frozen=True)
class Case:
    """One sequence that attends to itself.

    Attributes:
        length: The sequence length, T.
        window: The number of keys on each side that a query can attend to; all keys
            when `None`.
        causal: Whether keys after the query are hidden.
        backward: Whether gradients of the inputs (and weights) are computed too.
    """

    length: int
    window: int | None = None
    causal: bool = False
    backward: bool = False

    def __str__(self) -> str:
        words = [f"T={self.length}", "causal" if self.causal else ""]
        words.append("forward + backward" if self.backward else "forward")
        return ", ".join(word for word in words if word)


@dataclass(frozen=True)
class Built:
    """A case, ready to be called.

    Attributes:
        call: A function that computes the case.
        arrays: A function that converts the result of `call` to NumPy arrays, in the
            form that all candidates of a kind have in common.
    """

    call: Callable[[], Any]
    arrays: Callable[[Any], list[np.ndarray]]


def installed(*names: str) -> tuple[list[str], dict[str, str]]:
    """Returns the candidates that can run here, and why the others cannot."""
    missing = {
        name: f"{name} is not installed: {PIP_LINE}"
        for name in names
        if name in PACKAGES and not importlib.util.find_spec(PACKAGES[name])
    }
    return [name for name in names if name not in missing], missing


def build(name: str, case: Case) -> Built:
    """Builds the candidate of this name for a case."""
    return CANDIDATES[name](case)


def check(name: str, own: Sequence[Any], truth: Sequence[Any], backward: bool) -> None:
    """Raises if a peer computes something else."""
    tolerance = 1e-4 if backward else 1e-5
    for mine, other in zip(own, truth, strict=True):
        difference = np.abs(mine.reshape(-1) - other.reshape(-1)).max()
        worst = difference / max(1.0, np.abs(other).max())
        if not worst <= tolerance:
            raise AssertionError(f"{name} computes something else: off by {worst:.2g}")


def _numbers(length: int, count: int) -> list[np.ndarray]:
    """Draws arrays `[1, T, N * H]`, the same in each process."""
    generator = np.random.default_rng(0)
    shape = (1, length, HEADS * SIZE)
    return [generator.standard_normal(shape, dtype="float32") for _ in range(count)]


def _in_tensorflow(case: Case, function: Callable, count: int, weights=()) -> Built:
    """Builds a graph of a `function` of `count` tensors."""
    import tensorflow as tf

    *fed, upstream = map(tf.constant, _numbers(case.length, count + 1))

    @tf.function(autograph=False)
    def forward(*fed):
        return (function(*fed),)

    @tf.function(autograph=False)
    def both(upstream, *fed):
        with tf.GradientTape() as tape:
            tape.watch(fed)
            output = function(*fed)
        shaped = tf.reshape(upstream, tf.shape(output))
        return output, *tape.gradient(output, [*fed, *weights], shaped)

    call = (lambda: both(upstream, *fed)) if case.backward else lambda: forward(*fed)
    return Built(call, lambda results: [x.numpy() for x in results])


def _in_torch(case: Case, function: Callable) -> Built:
    """Builds a `function` of query, key and value `[1, N, T, H]`."""
    import torch

    def to_heads(x):
        heads = torch.from_numpy(x).reshape(1, case.length, HEADS, SIZE)
        return heads.transpose(1, 2).contiguous()

    *fed, upstream = map(to_heads, _numbers(case.length, 4))

    def forward():
        with torch.inference_mode():
            return (function(*fed),)

    def both():
        output = function(*fed)
        return output.detach(), *torch.autograd.grad(output, fed, upstream)

    if case.backward:
        fed = [x.requires_grad_() for x in fed]

    def arrays(results):
        return [x.transpose(1, 2).numpy() for x in results]  # [1, T, N, H]

    return Built(both if case.backward else forward, arrays)


def _keras_layer(case: Case) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    width = HEADS * SIZE
    window = None if case.window is None else case.window + 1  # Keras counts the query
    layer = keras.layers.MultiHeadAttention(HEADS, SIZE, sliding_window=window)
    layer.build((None, None, width), (None, None, width))
    return layer


def _layer(case: Case, layer: Any) -> Built:
    def function(x):
        return layer(x, x, use_causal_mask=case.causal, training=False)

    return _in_tensorflow(case, function, 1, layer.trainable_weights)


def _our_layer(case: Case) -> Built:
    import keras_attention as ka

    return _layer(case, ka.MultiHeadAttention.from_keras(_keras_layer(case)))


def _our_windows(case: Case) -> Built:
    from keras_attention.ops.heads import HeadSettings
    from keras_attention.ops.sparse.inputs import SelfAttentionInputs
    from keras_attention.ops.sparse.windows import window_attention

    heads = HeadSettings(HEADS, scale=SIZE**-0.5)

    def function(query, key, value):
        inputs = SelfAttentionInputs(query, key, value, heads)
        return window_attention(inputs, window=(case.window, case.window))

    return _in_tensorflow(case, function, 3)


def _our_chunks(case: Case) -> Built:
    from keras_attention.ops import masks
    from keras_attention.ops.chunked.attention import chunked_attention
    from keras_attention.ops.chunked.tiles import MaskParts
    from keras_attention.ops.heads import HeadSettings

    heads = HeadSettings(HEADS, scale=SIZE**-0.5)

    def function(query, key, value):
        return chunked_attention(
            query=query,
            key=key,
            value=value,
            heads=heads,
            mask=MaskParts(masks.causal) if case.causal else None,
        )

    return _in_tensorflow(case, function, 3)


def _our_dense_core(case: Case) -> Built:
    from keras_attention.ops import masks
    from keras_attention.ops.attend import dot_product_attention
    from keras_attention.ops.heads import HeadSettings
    from keras_attention.ops.positions import first_positions

    def function(query, key, value):
        mask = None
        if case.causal:
            mask = masks.causal.build(*[first_positions(case.length)] * 2)  # [T, S]
        output, _ = dot_product_attention(
            query=query,
            key=key,
            value=value,
            heads=HeadSettings(HEADS, scale=SIZE**-0.5),
            mask=mask,
        )
        return output

    return _in_tensorflow(case, function, 3)


def _keras_core(case: Case) -> Built:
    """The function `keras.layers.MultiHeadAttention` calls between projections."""
    from keras import ops

    def function(*tensors):
        heads = (1, case.length, HEADS, SIZE)
        query, key, value = (ops.reshape(x, heads) for x in tensors)
        mask = None
        if case.window is not None:
            positions = ops.arange(case.length, dtype="int32")
            distances = ops.abs(positions[:, None] - positions)
            mask = distances[None, None] <= case.window
        return ops.dot_product_attention(
            query, key, value, scale=SIZE**-0.5, mask=mask, is_causal=case.causal
        )

    return _in_tensorflow(case, function, 3)


def _torch_kernel(case: Case) -> Built:
    import torch

    mask = None
    if case.window is not None:
        positions = torch.arange(case.length)
        mask = (positions[:, None] - positions).abs() <= case.window

    def function(query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=case.causal
        )

    return _in_torch(case, function)


def _lucidrains(case: Case) -> Built:
    """Blocks of the window's size with both neighbours, masked to the window."""
    from local_attention import LocalAttention

    layer = LocalAttention(
        window_size=case.window,
        look_backward=1,
        look_forward=1,
        exact_windowsize=True,
        autopad=True,
        use_rotary_pos_emb=False,
    )
    return _in_torch(case, layer)


CANDIDATES = {
    "our layer": _our_layer,
    "Keras sliding_window": lambda case: _layer(case, _keras_layer(case)),
    "our windows": _our_windows,
    "our chunks": _our_chunks,
    "our dense core": _our_dense_core,
    "Keras core": _keras_core,
    "torch SDPA": _torch_kernel,
    "lucidrains local-attention": _lucidrains,
}
