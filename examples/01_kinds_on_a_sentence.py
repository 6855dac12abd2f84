"""Every kind of attention, trained on one task, drawn on one sentence.

The task: predict MiniLM's vectors after its six layers from its vectors before them
(word + position). Each kind is a single layer, whose output is concatenated with the
word itself, so that attention only has to add what the other words contribute. All
kinds train at once, on sentences of Python's documentation.

Expected: the share of variance that each explains on 64 sentences it has not seen, and
the picture in the README. About one minute on two cores. Needs
"keras-attention-layers[text,plot]" and the weights.
"""

import re
from pydoc_data.topics import topics

import _shared
import keras
import numpy as np

import keras_attention as ka

SENTENCE = "The dog ate because it was hungry."
KINDS = {  # title: (layer, call arguments); outputs have MiniLM's size, 384
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
    """Returns MiniLM's vectors before and after its layers, and the padding mask."""
    encoder, ids = model.encoder, model.tokenizer(sentences)
    ids = {name: np.asarray(ids[name]) for name in ("token_ids", "padding_mask")}
    x = encoder.token_embedding(ids["token_ids"])
    x = x + encoder.segment_embedding(np.zeros_like(ids["token_ids"]))
    x = encoder.embedding_normalization(encoder.position_embedding(x))
    after = encoder(ids)["sequence_output"]
    return np.asarray(x), np.asarray(after), ids["padding_mask"]


def side_by_side(size):
    """Builds one model in which each kind, and no attention, predicts the vectors."""
    x = keras.Input((None, size))
    mask = keras.Input((None,), dtype="bool")
    outputs = [keras.layers.Dense(size)(x)]
    for layer, call in KINDS.values():
        # Small weights: Luong's scores are not scaled, and sharp weights hardly learn.
        small = keras.initializers.RandomNormal(stddev=0.02)
        query, key = (
            keras.layers.Dense(64, kernel_initializer=small.clone())(x)
            for _ in range(2)
        )
        attended = layer(query, x, key, query_mask=mask, value_mask=mask, **call)
        both = keras.layers.Concatenate()([x, attended])
        outputs.append(keras.layers.Dense(size)(both))
    return keras.Model([x, mask], outputs)


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
    x, y, mask = before_and_after(minilm, sentences[: options.sentences + 64])
    model = side_by_side(x.shape[-1])
    model.compile(keras.optimizers.Adam(1e-3), "mse", weighted_metrics=[])
    model.fit(
        [x[:-64], mask[:-64]],
        [y[:-64]] * len(model.outputs),
        sample_weight=[mask[:-64].astype("float32")] * len(model.outputs),
        epochs=options.epochs,
        verbose=0,
    )
    predictions = model.predict([x[-64:], mask[-64:]], verbose=0)
    y, mask = y[-64:], mask[-64:]
    variance = np.mean((y - y[mask].mean(axis=0))[mask] ** 2)
    for title, predicted in zip(["no attention", *KINDS], predictions, strict=True):
        share = 1 - np.mean((predicted - y)[mask] ** 2) / variance
        print(f"{title:20s} explains {share:4.0%}")

    x, _, mask = before_and_after(minilm, [SENTENCE])
    found = ka.attention_maps(model, [x, mask])
    maps = [found[layer.name][0] for layer, _ in KINDS.values()]
    maps = [m.mean(axis=0) if m.ndim == 3 else m for m in maps]  # over the heads
    tokens = minilm.tokenizer.tokens([SENTENCE])[0]
    figure = ka.plot_attention(np.stack(maps), tokens, titles=list(KINDS))
    figure.set_size_inches(9.5, 4.9)
    figure.savefig(options.picture, dpi=100)
    print("written:", options.picture)


if __name__ == "__main__":
    main()
