"""Small functional models drawn at random, of Keras' layers and ours mixed.

A model has 1 to 3 inputs of ids, features, vectors or images, with free or fixed axes,
and a few layers that fit the ranks of what is there. `draw` is that of a hypothesis
composite; what Keras itself refuses to build is no case.
"""

import keras
from hypothesis import assume
from hypothesis import strategies as st

import keras_attention as ka

SIZES = (2, 3, 4, 6, 8)
layers = keras.layers


def heads(draw, **options):
    return ka.MultiHeadAttention(draw(st.sampled_from((1, 2))), 3, **options)


# Of one tensor of rank 3, `[batch, length, features]`.
SEQUENCES = {
    "dense": lambda draw: layers.Dense(draw(st.sampled_from(SIZES)), activation="tanh"),
    "normalization": lambda draw: layers.LayerNormalization(),
    "rms": lambda draw: ka.RMSNormalization(),
    "convolution": lambda draw: layers.Conv1D(
        draw(st.sampled_from(SIZES)),
        draw(st.sampled_from((1, 2, 3))),
        strides=draw(st.sampled_from((1, 2))),
        padding=draw(st.sampled_from(("same", "valid", "causal"))),
    ),
    "lstm": lambda draw: layers.LSTM(4, return_sequences=draw(st.booleans())),
    "gru": lambda draw: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
    "max_pooling": lambda draw: layers.MaxPooling1D(draw(st.sampled_from((2, 3)))),
    "mean_pooling": lambda draw: layers.AveragePooling1D(
        2, padding=draw(st.sampled_from(("same", "valid")))
    ),
    "mean": lambda draw: layers.GlobalAveragePooling1D(),
    "maximum": lambda draw: layers.GlobalMaxPooling1D(),
    "flatten": lambda draw: layers.Flatten(),
    "permute": lambda draw: layers.Permute((2, 1)),
    "reshape": lambda draw: layers.Reshape(
        draw(st.sampled_from(((-1, 2), (2, -1), (-1, 2, 2), (-1,))))
    ),
    "upsampling": lambda draw: layers.UpSampling1D(2),
    "zero_padding": lambda draw: layers.ZeroPadding1D((1, 2)),
    "cropping": lambda draw: layers.Cropping1D((1, 0)),
    "positions": lambda draw: ka.PositionEmbedding(draw(st.sampled_from((9, 16, 40)))),
    "sinusoids": lambda draw: ka.SinusoidalEncoding(),
    "attention_pooling": lambda draw: ka.AttentionPooling(
        num_queries=draw(st.sampled_from((1, 2)))
    ),
}
# Of one sequence that attends to another, or to itself.
ATTENTIONS = {
    "keras": lambda draw: layers.MultiHeadAttention(2, 3),
    "keras_dot": lambda draw: layers.Attention(),
    "multi_head": heads,
    "rotary": lambda draw: ka.MultiHeadAttention(
        2, 4, position=draw(st.sampled_from((ka.RotaryEmbedding, ka.AlibiBias)))()
    ),
    "dot_product": lambda draw: ka.DotProductAttention(
        draw(st.sampled_from(("scaled_dot", "general", "cosine")))
    ),
    "additive": lambda draw: ka.AdditiveAttention(4),
    "global": lambda draw: ka.GlobalAttention("general", 5),
    "local": lambda draw: ka.LocalAttention(
        "monotonic",
        window=2,  # predictive: float32 positions, see its page
    ),
    "monotonic": lambda draw: ka.MonotonicAttention(),
}
BLOCKS = {
    "encoder_block": lambda draw: ka.EncoderBlock(heads(draw), ka.FeedForward(6)),
    "window": lambda draw: heads(draw, sliding_window=2),
    "longformer": lambda draw: ka.LongformerAttention(
        2, 3, sliding_window=(1, 1), global_tokens=(0,)
    ),
    "big_bird": lambda draw: ka.BigBirdAttention(2, 3, block_size=2),
}
IMAGES = {
    "convolution_2d": lambda draw: layers.Conv2D(
        draw(st.sampled_from((2, 3))),
        draw(st.sampled_from((1, 3))),
        padding=draw(st.sampled_from(("same", "valid"))),
    ),
    "patches": lambda draw: ka.PatchEmbedding(draw(st.sampled_from((2, 4))), 4),
    "max_pooling_2d": lambda draw: layers.MaxPooling2D(2),
    "mean_2d": lambda draw: layers.GlobalAveragePooling2D(),
    "permute_2d": lambda draw: layers.Permute((2, 1, 3)),
    "rows": lambda draw: layers.Reshape((-1, 2)),
    "flatten_2d": lambda draw: layers.Flatten(),
    "axial": lambda draw: ka.MultiHeadAttention(1, 2, attention_axes=(2,)),
}
VECTORS = {
    "dense_vector": lambda draw: layers.Dense(draw(st.sampled_from(SIZES))),
    "batch_normalization": lambda draw: layers.BatchNormalization(),
    "repeat": lambda draw: layers.RepeatVector(3),
    "reshape_vector": lambda draw: layers.Reshape((-1, 2)),
    "softmax": lambda draw: layers.Softmax(),
}


def an_input(draw, number):
    kind = draw(
        st.sampled_from(("ids", "ids", "features", "features", "image", "vector"))
    )
    length = draw(st.sampled_from((None, None, None, 4, 6, 9)))
    name = f"{kind}_{number}"
    if kind == "ids":
        tokens = keras.Input((length,), dtype="int32", name=name)
        mask = draw(st.booleans())
        return tokens, layers.Embedding(
            draw(st.sampled_from((5, 30))), 4, mask_zero=mask
        )(tokens)
    shape = {
        "features": (length, draw(st.sampled_from((2, 4)))),
        "image": (length, draw(st.sampled_from((None, 4, 8))), 2),
        "vector": (draw(st.sampled_from((2, 4))),),
    }[kind]
    given = keras.Input(shape, name=name)
    return given, given


def a_step(draw, tensors):
    """One more tensor, made of one or two of those that are there."""
    x = draw(st.sampled_from(tensors))
    rank = len(x.shape)
    if rank == 2:
        return VECTORS[draw(st.sampled_from(sorted(VECTORS)))](draw)(x)
    if rank >= 4:
        return IMAGES[draw(st.sampled_from(sorted(IMAGES)))](draw)(x)
    kind = draw(st.sampled_from(("sequence", "attention", "block", "join")))
    if kind == "sequence":
        return SEQUENCES[draw(st.sampled_from(sorted(SEQUENCES)))](draw)(x)
    if kind == "block":
        name = draw(st.sampled_from(sorted(BLOCKS)))
        layer = BLOCKS[name](draw)
        return layer(x) if name == "encoder_block" else layer(x, x)
    other = draw(st.sampled_from([t for t in tensors if len(t.shape) == 3]))
    if kind == "join":
        axis = draw(st.sampled_from((1, -1)))
        join = draw(st.sampled_from((layers.Add(), layers.Concatenate(axis=axis))))
        return join([x, other])
    name = draw(st.sampled_from(sorted(ATTENTIONS)))
    layer = ATTENTIONS[name](draw)
    if isinstance(layer, layers.Attention):
        return layer([x, other])
    causal = {"use_causal_mask": True} if other is x and draw(st.booleans()) else {}
    return layer(x, other, **causal)


@st.composite
def functional_models(draw):
    """A functional model; what Keras refuses to build is no case."""
    pairs = [an_input(draw, number) for number in range(draw(st.integers(1, 3)))]
    tensors = [tensor for _, tensor in pairs]
    made = []
    for _ in range(draw(st.integers(1, 4))):
        try:
            made.append(a_step(draw, tensors))
        except (
            ValueError,
            TypeError,
            AssertionError,
            RuntimeError,
            NotImplementedError,
        ):
            assume(False)
        tensors.append(made[-1])
    outputs = [made[-1]]
    if len(made) > 1 and draw(st.booleans()):
        outputs.append(made[0])
    return keras.Model([given for given, _ in pairs], outputs)
