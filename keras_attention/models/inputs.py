"""The inputs of models: one array, arrays by name, or a dict of them."""

from typing import Any

import keras
from keras import ops

from keras_attention.ops.backend.shapes import describe, differ, refuse_ragged


def standardize_ids(token_ids: Any, others: dict[str, Any]) -> dict[str, Any]:
    """Checks token ids and the inputs that come with them; returns them as tensors.

    Args:
        token_ids: Int `[B, T]`, or a dict of all inputs by name.
        others: The other inputs by name, each `[B, T]`: a mask (its name has `mask`
            in it) or integers. `None` for one that was omitted.

    Returns:
        A dict of `token_ids` and the others. Masks are bool.
    """
    if isinstance(token_ids, dict):
        given = token_ids
        if "token_ids" not in given or set(given) - {"token_ids", *others}:
            raise ValueError(
                "The inputs must have `token_ids` and may have "
                f"{', '.join(others)}. Received: {', '.join(given) or 'nothing'}"
            )
        others = {name: given.get(name, other) for name, other in others.items()}
        token_ids = given["token_ids"]
    token_ids = _integers("token_ids", token_ids)
    inputs = {"token_ids": token_ids}
    for name, value in others.items():
        inputs[name] = None
        if value is not None:
            check = _mask if "mask" in name else _integers
            inputs[name] = check(name, value)
            _check_same_shape(name, inputs[name], token_ids)
    return inputs


def _integers(name: str, value: Any) -> Any:
    refuse_ragged(**{name: value})
    value = ops.convert_to_tensor(value)
    if "int" not in keras.backend.standardize_dtype(value.dtype):
        raise ValueError(
            f"`{name}` must be integers. Text goes through the tokenizer first. "
            f"Received: {name}={describe(value)}"
        )
    if len(value.shape) != 2:
        raise ValueError(
            f"`{name}` must have shape [batch, length]; wrap a single sequence in a "
            f"list. Received: {name}={describe(value)}"
        )
    return value


def _mask(name: str, value: Any) -> Any:
    """Returns a padding mask as bool; tokenizers return it as 0 / 1 integers."""
    refuse_ragged(**{name: value})
    value = ops.convert_to_tensor(value)
    dtype = keras.backend.standardize_dtype(value.dtype)
    if dtype != "bool" and "int" not in dtype:
        raise ValueError(
            f"`{name}` must be bool or 0 / 1 integers, with True or 1 at non-padding "
            f"tokens. Received: {name}={describe(value)}"
        )
    return value if dtype == "bool" else ops.not_equal(value, 0)


def _check_same_shape(name: str, value: Any, token_ids: Any) -> None:
    if len(value.shape) != 2 or any(
        differ(*sizes) for sizes in zip(value.shape, token_ids.shape, strict=True)
    ):
        raise ValueError(
            f"`{name}` must have the shape of `token_ids`. Received: "
            f"{name}={describe(value)}, token_ids={describe(token_ids)}"
        )
