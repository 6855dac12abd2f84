"""How the variables of a model are divided among devices (`keras.distribution`)."""

import re
from typing import Any

import keras

# What ends a variable's path -> the axis that is divided. A product of two matrices
# that are divided so is computed without an exchange between them.
_RULES = {
    r"(query|key|value)/kernel": (3, 1),  # [E, N, H]: the heads
    r"(query|key|value)/bias": (2, 0),  # [N, H]
    r"attention_output/kernel": (3, 0),  # [N, H, E]
    r"feed_forward/(intermediate|gate)/kernel": (2, 1),  # [E, F]
    r"feed_forward/(intermediate|gate)/bias": (1, 0),  # [F]
    r"feed_forward/output/kernel": (2, 0),  # [F, E]
    # [V, E]: many vocabularies cannot be divided evenly, the hidden size can.
    r"(token|position|segment)_embedding/embeddings": (2, 1),
    r"head/kernel": (2, 0),  # [E, V]
}


def layout_map(
    model: keras.Model, mesh: keras.distribution.DeviceMesh, *, axis: str = "model"
) -> keras.distribution.LayoutMap:
    """Returns how the variables of a model are divided among the devices of a mesh.

    Attention is divided by heads, feed-forward layers by their intermediate size, and
    embeddings by the hidden size; what cannot be divided evenly is on every device. It
    is for `keras.distribution.ModelParallel`, which Keras has on JAX. The map fits all
    models of the same architecture: the one that is trained is made after
    `keras.distribution.set_distribution`.

    Reference: Shoeybi et al., "Megatron-LM", 2019 (arXiv:1909.08053), section 3.

    Args:
        model: A model or a task of this library, whose variables exist.
        mesh: The devices. Its first axis divides the batch.
        axis: The axis of the mesh that divides the variables. Without it all of them
            are on every device, which is data parallelism.

    Returns:
        The map, whose keys are regular expressions for the paths of variables.

    Raises:
        ValueError: If the model has no variables yet.

    Example:
    >>> model = ka.BertEncoder(100, 1, 2, 16, 32)
    >>> devices = [f"cpu:{i}" for i in range(4)]
    >>> mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), devices)
    >>> layouts = ka.layout_map(model, mesh)
    >>> layouts["bert_encoder/block_0/attention/query/kernel"].axes
    (None, 'model', None)
    """
    if not model.variables:
        raise ValueError(
            "`layout_map` reads the paths and shapes of a model's variables: call the "
            f"model once on a batch before. Received: {model.name} without variables"
        )
    layouts = keras.distribution.LayoutMap(mesh)
    if axis not in mesh.axis_names:
        return layouts
    size = mesh.shape[list(mesh.axis_names).index(axis)]
    chosen: dict[str, Any] = {}
    for variable in model.variables:
        path = variable.path.partition("/")[2]
        divided = _divided_axis(path, variable.shape, size)
        # A draft model has the same paths, and may have other sizes.
        if path and chosen.get(path, divided) != divided:
            divided = None
        chosen[path] = divided
    ranks = {v.path.partition("/")[2]: len(v.shape) for v in model.variables}
    for path, divided in chosen.items():
        if divided is not None:
            axes = tuple(axis if i == divided else None for i in range(ranks[path]))
            layouts[f"[^/]+/{re.escape(path)}"] = axes
    return layouts


def _divided_axis(path: str, shape: Any, size: int) -> int | None:
    """Returns the axis of a variable that is divided into `size` parts, or `None`."""
    for ending, (rank, divided) in _RULES.items():
        if re.search(f"(^|/){ending}$", path):
            fits = len(shape) == rank and shape[divided] % size == 0
            return divided if fits else None
    return None
