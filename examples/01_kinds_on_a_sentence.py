"""Every kind of attention, trained on one task, drawn on one sentence.

The task: from MiniLM's vectors before its six layers (word + position) to its vectors
after them. Each kind has a single layer and is given the word itself beside it, so what
is left for attention is what the other words tell. All train at once, on sentences of
Python's documentation.

Expected: the share of variance each explains on 64 sentences it has not seen, and the
picture that the README shows. About one minute on two cores. Needs
"keras-attention[text,plot]" and the weights.
"""

import re
from pydoc_data.topics import topics

import _shared
import keras
import numpy as np

import keras_attention as ka

SENTENCE = "The dog ate because it was hungry."
KINDS = {  # title: (layer, call arguments); each gives vectors of 384, MiniLM's size
    "additive": (ka.AdditiveAttention(units=32), {}),
    "scaled dot-product": (ka.DotProductAttention(), {}),
    "global (Luong)": (ka.GlobalAttention(units=384), {}),
    "local-m (Luong)": (ka.LocalAttention("monotonic", window=2, units=384), {}),
    "local-p (Luong)": (ka.LocalAttention("predictive", window=2, units=384), {}),
    "multi-head": (ka.MultiHeadAttention(6, 32, output_shape=384), {}),
    "multi-head, causal": (
        ka.MultiHeadAttention(6, 32, output_shape=384),
        {"use_causal_mask": True},
    ),
    "multi-head, window": (
        ka.MultiHeadAttention(6, 32, output_shape=384, sliding_window=3),
        {},
    ),
}


def before_and_after(model, sentences):
    """MiniLM's vectors before and after its layers, and which tokens are real."""
    encoder, ids = model.encoder, model.tokenizer(sentences)
    ids = {name: np.asarray(ids[name]) for name in ("token_ids", "padding_mask")}
    x = encoder.token_embedding(ids["token_ids"])
    x = x + encoder.segment_embedding(np.zeros_like(ids["token_ids"]))
    x = encoder.embedding_normalization(encoder.position_embedding(x))
    after = encoder(ids)["sequence_output"]
    return np.asarray(x), np.asarray(after), ids["padding_mask"]


def side_by_side(size):
    """One model: every kind, and none, predicts the vectors."""
    x = keras.Input((None, size))
    keep = keras.Input((None,), dtype="bool")
    outputs = [keras.layers.Dense(size)(x)]
    for layer, call in KINDS.values():
        # Small at first: Luong's scores are not scaled, and a peak hardly learns.
        small = keras.initializers.RandomNormal(stddev=0.02)
        query, key = (
            keras.layers.Dense(64, kernel_initializer=small.clone())(x)
            for _ in range(2)
        )
        seen = layer(query, x, key, query_mask=keep, value_mask=keep, **call)
        both = keras.layers.Concatenate()([x, seen])
        outputs.append(keras.layers.Dense(size)(both))
    return keras.Model([x, keep], outputs)


def main():
    parser = _shared.parser(__doc__)
    _shared.add_weights(parser)
    parser.add_argument("--sentences", type=int, default=320, help="to train on (320)")
    parser.add_argument("--epochs", type=int, default=10, help="over them (10)")
    parser.add_argument("--picture", default="kinds.png", help="file (kinds.png)")
    options = parser.parse_args()
    keras.utils.set_random_seed(1)

    minilm = ka.from_pretrained(_shared.folder(options.weights))
    text = " ".join(" ".join(topics.values()).split())
    sentences = re.findall(r"(?<=[.] )[A-Z][\w ,'()-]{25,110}[.]", text)
    x, y, keep = before_and_after(minilm, sentences[: options.sentences + 64])
    model = side_by_side(x.shape[-1])
    model.compile(keras.optimizers.Adam(1e-3), "mse", weighted_metrics=[])
    model.fit(
        [x[:-64], keep[:-64]],
        [y[:-64]] * len(model.outputs),
        sample_weight=[keep[:-64].astype("float32")] * len(model.outputs),
        epochs=options.epochs,
        verbose=0,
    )
    guesses = model.predict([x[-64:], keep[-64:]], verbose=0)
    y, keep = y[-64:], keep[-64:]
    variance = np.mean((y - y[keep].mean(axis=0))[keep] ** 2)
    for title, guess in zip(["no attention", *KINDS], guesses, strict=True):
        share = 1 - np.mean((guess - y)[keep] ** 2) / variance
        print(f"{title:20s} explains {share:4.0%}")

    x, _, keep = before_and_after(minilm, [SENTENCE])
    found = ka.attention_maps(model, [x, keep])
    maps = [found[layer.name][0] for layer, _ in KINDS.values()]
    maps = [m.mean(axis=0) if m.ndim == 3 else m for m in maps]  # over the heads
    tokens = minilm.tokenizer.tokens([SENTENCE])[0]
    figure = ka.plot_attention(np.stack(maps), tokens, titles=list(KINDS))
    figure.set_size_inches(9.5, 4.9)
    figure.savefig(options.picture, dpi=100)
    print("written:", options.picture)


if __name__ == "__main__":
    main()
