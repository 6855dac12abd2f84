"""The options of a decoder: each is checked and brought to one form."""

from typing import Any, Literal

from keras_attention.models.common import check_divisible

BIASES = ("query_key_value", "attention_output", "feed_forward")


def head_size(key_dim: int | None, hidden_dim: int, num_heads: int) -> int:
    """Returns the size of a head: `key_dim`, or the hidden size over the heads."""
    if key_dim is not None:
        return key_dim
    check_divisible(hidden_dim, num_heads)
    return hidden_dim // num_heads


def rotary_settings(position: Any) -> dict[str, Any] | None:
    """Returns the arguments of `RotaryEmbedding`; `None` for learned positions."""
    if position == "learned":
        return None
    if position == "rotary":
        return {}
    if isinstance(position, dict):
        return dict(position)
    raise ValueError(
        "`position` must be 'learned', 'rotary' or a dict of the arguments of "
        f"RotaryEmbedding. Received: position={position!r}"
    )


def standardize_biases(use_bias: Any) -> tuple[str, ...]:
    """Returns the parts that have biases, in the order of `BIASES`."""
    if isinstance(use_bias, bool):
        return BIASES if use_bias else ()
    if isinstance(use_bias, str) or set(use_bias) - set(BIASES):
        raise ValueError(
            f"`use_bias` must be True, False or a tuple of {', '.join(BIASES)}. "
            f"Received: use_bias={use_bias!r}"
        )
    return tuple(part for part in BIASES if part in use_bias)


def use_attention_bias(
    parts: tuple[str, ...],
) -> bool | Literal["query_key_value"]:
    """Returns the argument `use_bias` of `MultiHeadAttention`.

    Args:
        parts: The parts that have biases, as `standardize_biases` returns them.
    """
    inner, outer = (part in parts for part in BIASES[:2])
    if outer and not inner:
        raise ValueError(
            "`use_bias` must name 'query_key_value' if it names 'attention_output'. "
            f"Received: use_bias={parts}"
        )
    return True if outer else "query_key_value" if inner else False


def windows_of_layers(window: Any, num_layers: int) -> list[int | None]:
    """Returns one `sliding_window` per layer."""
    if not isinstance(window, list | tuple):
        return [window] * num_layers
    if len(window) != num_layers:
        raise ValueError(
            "A list for `sliding_window` must have one entry per layer, here "
            f"{num_layers}. Received: sliding_window={window!r}"
        )
    return list(window)


def check_head(head: str | None) -> str | None:
    """Returns `head`, or refuses a value that is not one of the three."""
    if head not in ("tied", "own", None):
        raise ValueError(
            f"`head` must be 'tied', 'own' or None. Received: head={head!r}"
        )
    return head


def plain(value: Any) -> Any:
    """Returns a value without the wrappers that Keras puts around dicts and lists."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return list(value) if isinstance(value, list) else value
