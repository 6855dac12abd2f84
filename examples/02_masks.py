"""Which query can attend to which key: the building blocks of masks, drawn as text.

A row is a query, a column is a key; 1 = can attend to it, . = cannot. Masks are values:
they combine with &, | and ~, and are built from positions when a layer is called.

Expected: drawings, then the same mask at work in a layer. A few seconds.
"""

import _shared
import numpy as np

import keras_attention as ka
from keras_attention import masks

DRAWN = {
    "causal": masks.causal,
    "window(2, 1)": masks.window(2, 1),
    "dilated(2)": masks.dilated(2),
    "blocks(3)": masks.blocks(3),
    "global_tokens(0)": masks.global_tokens(0),
    "prefix([2])": masks.prefix([2]),
    "segments([[0, 0, 1, 1, 1, 1]])": masks.segments([[0, 0, 1, 1, 1, 1]]),
    "padding([[1, 1, 1, 1, 0, 0]] > 0)": masks.padding(np.arange(6)[None] < 4),
    "causal & window(2, 0)": masks.causal & masks.window(2, 0),
    "window(1, 1) | global_tokens(0)": masks.window(1, 1) | masks.global_tokens(0),
    "~window(0, 0)": ~masks.window(0, 0),
}


def main():
    _shared.parser(__doc__).parse_args()
    for name, mask in DRAWN.items():
        print(f"{name}\n{mask.draw(6)}\n")

    layer = ka.MultiHeadAttention(num_heads=2, key_dim=4)
    x = np.random.default_rng(0).normal(size=(1, 6, 8)).astype("float32")
    longformer = masks.window(1, 1) | masks.global_tokens(0)
    _, weights = layer(x, x, attention_mask=longformer, return_attention_scores=True)
    print("weights of head 0 under window(1, 1) | global_tokens(0), in percent")
    for row in np.asarray(weights)[0, 0]:
        print(" ".join(f"{weight:3.0%}" if weight else "  ." for weight in row))


if __name__ == "__main__":
    main()
