"""Records the attention weights of any built model, without rebuilding it."""

from typing import Any

import keras
import numpy as np

from keras_attention.layers.base import AttentionLayer, observing


def record_attention(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict]:
    """Calls a model and records the weights of every attention layer that runs.

    This works while a graph is traced too; the weights are symbolic tensors then.

    Args:
        model: Any model or layer that contains attention layers of this library.
        *args: Arguments of the model.
        **kwargs: Keyword arguments of the model.

    Returns:
        `(outputs, maps)`: the model's outputs, and a dict from a name such as
        `"block_0/attention"` to weights `[B, N, T, S]` or `[B, T, S]`.
    """
    recorded: list[tuple[AttentionLayer, Any]] = []
    with observing(lambda layer, weights: recorded.append((layer, weights))):
        outputs = model(*args, **kwargs)
    return outputs, _named(recorded)


def attention_maps(model: Any, inputs: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """Returns the attention weights of every attention layer of a model.

    The model's outputs are the same with and without this function: the weights are
    recorded during a normal call.

    Args:
        model: Any built model that contains attention layers of this library.
        inputs: The model's inputs.
        **kwargs: Further keyword arguments of the model.

    Returns:
        A dict from a layer's name, e.g. `"block_0/attention"`, to its weights:
        `[B, N, T, S]` with heads, `[B, T, S]` without. If a layer is called more than
        once, `"#1"`, `"#2"`, … follow its name. The order is that in which the layers
        ran; in a functional model it can differ from the order of the code.

    Example:
    >>> encoder = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> maps = ka.attention_maps(encoder, np.array([[1, 2, 3]]))
    >>> {name: weights.shape for name, weights in maps.items()}
    {'block_0/attention': (1, 2, 3, 3), 'block_1/attention': (1, 2, 3, 3)}
    """
    _, maps = record_attention(model, inputs, **kwargs)
    if not maps:
        raise ValueError(
            "No attention layer of keras_attention ran in this model. Weights of "
            "`keras.layers` are not recorded: convert them with `from_keras`. "
            f"Received: model={model!r}"
        )
    return {name: keras.ops.convert_to_numpy(m) for name, m in maps.items()}


def _named(recorded: list[tuple[AttentionLayer, Any]]) -> dict[str, Any]:
    """Names each map after its layer's path, without the prefix that all share."""
    paths = [(layer.path or layer.name).split("/") for layer, _ in recorded]
    shared = 0
    while len(paths) > 1 and all(
        len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths
    ):
        shared += 1
    names = ["/".join(path[shared:]) for path in paths]
    maps: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for name, (_, weights) in zip(names, recorded, strict=True):
        counts[name] = counts.get(name, 0) + 1
        repeated = names.count(name) > 1
        maps[f"{name}#{counts[name]}" if repeated else name] = weights
    return maps
