"""The attention of any built model, without rebuilding it."""

from typing import Any

import keras
import numpy as np

from keras_attention.layers.base import AttentionLayer, observing


def record_attention(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict]:
    """Calls a model and keeps the weights of every attention layer it runs.

    Works inside a graph being traced too, where weights are symbolic tensors.

    Args:
        model: Any model or layer that contains attention layers of this library.
        *args: Passed to the model.
        **kwargs: Passed to the model.

    Returns:
        `(outputs, maps)`: what the model returns, and a dict from a name such as
        `"block_0/attention"` to weights `[B, N, T, S]` or `[B, T, S]`.
    """
    seen: list[tuple[AttentionLayer, Any]] = []
    with observing(lambda layer, weights: seen.append((layer, weights))):
        outputs = model(*args, **kwargs)
    return outputs, _named(seen)


def attention_maps(model: Any, inputs: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """What every attention layer of a model attends to.

    The outputs of the model are the same with and without this: the weights come
    from the very call that is observed.

    Args:
        model: Any built model that contains attention layers of this library.
        inputs: The model's inputs.
        **kwargs: Passed to the model.

    Returns:
        A dict from a layer's name, e.g. `"block_0/attention"`, to its weights:
        `[B, N, T, S]` with heads, `[B, T, S]` without. A layer called more than
        once has `"#1"`, `"#2"`, … behind its name. In the order in which layers ran,
        which in a functional model need not be the order of its code.

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
            "No attention layer of keras_attention ran in this model. Layers of "
            "`keras.layers` do not report: convert them with `from_keras`. "
            f"Received: model={model!r}"
        )
    return {name: keras.ops.convert_to_numpy(m) for name, m in maps.items()}


def _named(seen: list[tuple[AttentionLayer, Any]]) -> dict[str, Any]:
    """Names each map by its layer's path, without what all paths share."""
    paths = [(layer.path or layer.name).split("/") for layer, _ in seen]
    shared = 0
    while len(paths) > 1 and all(
        len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths
    ):
        shared += 1
    names = ["/".join(path[shared:]) for path in paths]
    maps: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for name, (_, weights) in zip(names, seen, strict=True):
        counts[name] = counts.get(name, 0) + 1
        repeated = names.count(name) > 1
        maps[f"{name}#{counts[name]}" if repeated else name] = weights
    return maps
