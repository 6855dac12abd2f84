"""`plot_attention`: attention weights as heat maps, with matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def plot_attention(
    weights: Any,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    columns: int = 4,
    path: str | Path | None = None,
) -> Any:
    """Draws attention weights as heat maps: one row per query, one column per key.

    Args:
        weights: The weights of one map, `[T, S]`, or of several, `[N, T, S]`. All maps
            have the same colours, from 0 to the largest weight: the bar shows them.
        query_tokens: One label per query.
        key_tokens: One label per key; by default `query_tokens`.
        titles: One title per map.
        title: The title of the picture, such as the name of the layer.
        columns: The number of maps side by side.
        path: The file to save the picture in, e.g. `attention.png`.

    Returns:
        The matplotlib figure.

    Example:
    ```python
    maps = ka.attention_maps(encoder, tokenizer([sentence]))
    tokens = tokenizer.tokens([sentence])[0]
    ka.plot_attention(maps["block_0/attention"][0], tokens, path="heads.png")
    ```
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib: pip install "keras-attention-layers[plot]". '
            f"Received: {error}"
        ) from error
    maps = np.asarray(weights)
    maps = maps[None] if maps.ndim == 2 else maps
    key_tokens = query_tokens if key_tokens is None else key_tokens
    _check(maps, query_tokens, key_tokens, titles)
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    width, height = 0.32 * len(key_tokens) + 1.2, 0.26 * len(query_tokens) + 1.1
    largest = float(np.max(maps, initial=0.0)) or 1.0
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    # A token is text, not markup: "$" begins no formula.
    plain: Any = {"fontsize": 8, "parse_math": False}
    for index, axis in enumerate(axes):
        if index >= len(maps):
            axis.axis("off")
            continue
        image = axis.imshow(
            maps[index], cmap="Blues", vmin=0.0, vmax=largest, aspect="auto"
        )
        axis.set_xticks(range(len(key_tokens)), key_tokens, rotation=90, **plain)
        labels = query_tokens if index % columns == 0 else []
        axis.set_yticks(range(len(labels)), labels, **plain)
        name = "" if titles is None else titles[index]
        axis.set_title(name, **{**plain, "fontsize": 9})
    figure.colorbar(image, ax=list(axes), fraction=0.05, label="weight")
    if title is not None:
        figure.suptitle(title, parse_math=False)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure


def _check(maps, query_tokens, key_tokens, titles):
    wanted = (len(query_tokens), len(key_tokens))
    if maps.ndim != 3 or maps.shape[1:] != wanted:
        raise ValueError(
            "`weights` must have shape [T, S] or [N, T, S], with one label per query "
            f"and per key. Received: weights of shape {maps.shape}, {wanted[0]} query "
            f"and {wanted[1]} key labels"
        )
    if titles is not None and len(titles) != len(maps):
        raise ValueError(
            f"`titles` must have one title per map. Received: {len(titles)} titles, "
            f"{len(maps)} maps"
        )
