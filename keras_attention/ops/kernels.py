"""Hand-over to a kernel of the backend that never holds the T × S scores.

Only where it was measured to give the numbers of `attend.py` in less memory and, but
for float64, in less time (docs/design.md has the figures). Keras' own
`keras.config.disable_flash_attention()` switches it off. The backends are imported here
alone, each in the function that needs it.
"""

from typing import Any

import keras
from keras import ops


def fits(query: Any, key: Any, value: Any) -> bool:
    """Whether this backend has a kernel for such tensors, not switched off in Keras.

    Args:
        query: `[B, T, N * H]`.
        key: `[B, S, K * H]`.
        value: `[B, S, K * V]`.
    """
    tensors = query, key, value
    return (
        keras.backend.backend() in _KERNELS
        and keras.config.is_flash_attention_enabled() is not False
        and all(ops.is_tensor(tensor) for tensor in tensors)  # no symbols
        and key.shape[-1] == value.shape[-1]
        and not any(0 in tensor.shape for tensor in tensors)
    )


def fused_attention(
    query: Any, key: Any, value: Any, *, mask: Any = None, bias: Any = None
) -> Any:
    """Attention by one kernel; `None` where it has none for this device or bias.

    Args:
        query: `[B, N, T, H]`, scaled, float32 or float64; see `fits`.
        key: `[B, K, S, H]`, in the same dtype.
        value: `[B, K, S, H]`, in the same dtype.
        mask: Bool, broadcastable to `[B, N, T, S]`. Rows without a visible key come
            back as means of what they must not see, finite in value and gradient:
            the caller clears them.
        bias: Float, broadcastable likewise; added to the scores. Not with a mask.

    Returns:
        `[B, N, T, H]` or `None`.
    """
    return _KERNELS[keras.backend.backend()](query, key, value, mask, bias)


def _torch_kernel(query, key, value, mask, bias):
    import torch

    if query.device.type not in {"cpu", "meta"}:
        return None  # not measured
    # The kernel has no gradient for a bias. It finds the weights again from one
    # logarithm a row, which beside a bias of -1e29 is rounded away.
    learns = torch.is_grad_enabled() and any(
        tensor.requires_grad
        for tensor in (query, key, value, bias)
        if tensor is not None
    )
    if learns and bias is not None:
        return None
    added = bias
    if mask is not None:
        # A row of -inf only has no gradient: let it look at everything.
        mask = ops.convert_to_tensor(mask)
        added = mask | ~mask.any(dim=-1, keepdim=True)
    if added is not None:
        added = added.reshape(*[1] * (4 - added.ndim), *added.shape)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=added,
        scale=1.0,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # [B, N, T, H]


_KERNELS = {"torch": _torch_kernel}
