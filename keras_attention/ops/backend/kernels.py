"""Calls of a kernel of the backend that never holds the T × S scores.

A kernel is used only where it returns the numbers of `attend.py` in less memory and,
except for float64, in less time (docs/design.md has the figures). Keras' own
`keras.config.disable_flash_attention()` disables it. The backends are imported inside
the functions that need them.
"""

from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend import shapes


def fits(query: Any, key: Any, value: Any, *, num_heads: int) -> bool:
    """Whether this backend has a kernel for such tensors that Keras has not disabled.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, S, K * H]`.
        value: `[B, S, K * V]`.
        num_heads: N.
    """
    tensors = query, key, value
    return (
        keras.backend.backend() in _KERNELS
        and keras.config.is_flash_attention_enabled() is not False
        and all(ops.is_tensor(tensor) for tensor in tensors)  # not symbolic
        and key.shape[-1] == value.shape[-1]
        and not any(shapes.is_symbolic(n) or n == 0 for x in tensors for n in x.shape)
        and _KERNELS[keras.backend.backend()][0](*tensors, num_heads)
    )


def fused_attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    scale: float,
    dtype: str,
    mask: Any = None,
    bias: Any = None,
) -> Any:
    """Computes attention by one kernel; `None` if it does not support the bias.

    Args:
        query: `[B, N, T, H]`; see `fits`.
        key: `[B, K, S, H]`.
        value: `[B, K, S, H]`.
        scale: The factor of the scores.
        dtype: The dtype of the scores, float32 or float64.
        mask: Bool, broadcastable to `[B, N, T, S]`. Rows without a visible key return
            means of hidden values, finite in value and gradient: the caller clears
            them.
        bias: Float, broadcastable to `[B, N, T, S]`; added to the scores. It cannot be
            combined with a mask.

    Returns:
        `[B, N, T, H]` or `None`.
    """
    kernel = _KERNELS[keras.backend.backend()][1]
    return kernel(query, key, value, scale=scale, dtype=dtype, mask=mask, bias=bias)


def _is_half(*tensors: Any) -> bool:
    dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors}
    return len(dtypes) == 1 and dtypes <= {"float16", "bfloat16"}


def _torch_fits(query, key, value, _):
    # A GPU multiplies half precision into float32; its float32 has an error of 2e-6.
    if query.device.type == "cuda":
        return _is_half(query, key, value)
    return query.device.type in {"cpu", "meta"}  # others were not measured


def _torch_kernel(query, key, value, *, scale, dtype, mask, bias):
    import torch

    if query.device.type != "cuda":
        query, key, value = (ops.cast(x, dtype) for x in (query, key, value))
    elif bias is not None:
        return None  # the kernel would round it to half precision
    # The kernel has no gradient for a bias. It computes the weights again from one
    # logarithm per row, which next to a bias of -1e29 is lost to rounding.
    learns = torch.is_grad_enabled() and any(
        tensor.requires_grad
        for tensor in (query, key, value, bias)
        if tensor is not None
    )
    if learns and bias is not None:
        return None
    added = bias
    if mask is not None:
        # A row that is all -inf has no gradient: all of its keys become visible.
        mask = ops.convert_to_tensor(mask)
        added = mask | ~mask.any(dim=-1, keepdim=True)
    if added is not None:
        added = added.reshape(*[1] * (4 - added.ndim), *added.shape)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=added,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # [B, N, T, H]


def _jax_fits(query, key, value, num_heads):
    import jax

    # On a CPU the kernel of JAX holds the scores too. On a GPU it is that of cuDNN,
    # which reports some of its limits only when the gradient is computed.
    return (
        jax.default_backend() == "gpu"
        and _is_half(query, key, value)
        and query.shape[1] % 2 == key.shape[1] % 2 == 0
        and query.shape[2] // num_heads in range(8, 129, 8)
    )


def _jax_kernel(query, key, value, *, scale, dtype, mask, bias):
    import jax

    del dtype  # float32, by the kernel itself
    if bias is not None:
        return None
    if mask is not None:
        mask = jax.numpy.asarray(mask)
        mask = mask | ~mask.any(axis=-1, keepdims=True)  # as on torch
        mask = mask.reshape(*[1] * (4 - mask.ndim), *mask.shape)
        mask = jax.numpy.broadcast_to(
            mask, (*mask.shape[:2], query.shape[2], key.shape[2])
        )
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    try:
        output = jax.nn.dot_product_attention(
            query, key, value, mask=mask, scale=scale, implementation="cudnn"
        )  # [B, T, N, H]
    except (NotImplementedError, RuntimeError, ValueError):
        return None  # the device, or this version of cuDNN, has no such kernel
    return output.swapaxes(1, 2)


_KERNELS = {"jax": (_jax_fits, _jax_kernel), "torch": (_torch_fits, _torch_kernel)}
