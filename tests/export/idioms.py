"""Models as Keras' users write them: of tutorials, forums and bug reports."""

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers

import keras_attention as ka


@dataclass(frozen=True)
class Idiom:
    """A user's model, and inputs as its user would draw them.

    Attributes:
        make: Returns the model.
        draw: From a random generator to inputs in the structure of the model.
        formats: The formats that it becomes.
        options: Further arguments of `export_model`.
        tolerance: Of outputs, relative above 1.
    """

    make: Callable
    draw: Callable
    formats: tuple[str, ...] = ("saved_model", "onnx")
    options: dict = field(default_factory=dict)
    tolerance: float = 1e-5


IDIOMS: dict[str, Idiom] = {}
SCORES = {"return_attention_scores": True}


def idiom(draw, **more):
    def register(make):
        IDIOMS[make.__name__] = Idiom(make, draw, **more)
        return make

    return register


def ids(random, high, length=None, batch=None):
    size = (batch or random.integers(1, 4), length or random.integers(1, 40))
    return random.integers(0, high, size).astype("int32")


def floats(random, *shape):
    return random.normal(size=shape).astype("float32")


def two_ids(random, source=30, target=20, most=40):
    batch = random.integers(1, 4)
    lengths = random.integers(1, most, 2)
    return {
        "source": ids(random, source, lengths[0], batch),
        "target": ids(random, target, lengths[1], batch),
    }


def token_input(name="ids", length=None):
    return keras.Input((length,), dtype="int32", name=name)


@idiom(two_ids)
def cross_attention():
    source, target = token_input("source"), token_input("target")
    memory = layers.Embedding(30, 8, mask_zero=True)(source)
    query = layers.Embedding(20, 8, mask_zero=True)(target)
    x, weights = ka.MultiHeadAttention(2, 4)(
        query, memory, return_attention_scores=True
    )
    outputs = {"logits": layers.Dense(20)(x), "weights": weights}
    return keras.Model({"source": source, "target": target}, outputs)


@idiom(lambda random: [*two_ids(random).values()])
def transformer_translator_of_a_list():
    source, target = token_input("source"), token_input("target")
    x = ka.SinusoidalEncoding()(layers.Embedding(30, 8, mask_zero=True)(source))
    x = ka.EncoderBlock(ka.MultiHeadAttention(2, 4), ka.FeedForward(16))(x)
    y = ka.SinusoidalEncoding()(layers.Embedding(20, 8, mask_zero=True)(target))
    y = ka.DecoderBlock(
        ka.MultiHeadAttention(2, 4),
        ka.FeedForward(16),
        cross_attention=ka.MultiHeadAttention(2, 4),
    )(y, encoder_sequence=x)
    return keras.Model([source, target], layers.Dense(20, name="logits")(y))


@idiom(two_ids, formats=("saved_model",))
def bahdanau_translator():
    source, target = token_input("source"), token_input("target")
    x = layers.Embedding(30, 8, mask_zero=True)(source)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    cell = ka.AttentionCell(layers.GRUCell(8), ka.AdditiveAttention(6))
    y = layers.Embedding(20, 8)(target)
    y = ka.AttentionRNN(cell, return_sequences=True)(y, x)
    outputs = {"logits": layers.Dense(20)(y)}
    return keras.Model({"source": source, "target": target}, outputs)


@idiom(two_ids)
def luong_translator_without_a_loop():
    source, target = token_input("source"), token_input("target")
    memory = layers.Embedding(30, 8)(source)
    query = layers.Embedding(20, 8)(target)
    x, weights = ka.GlobalAttention("general")(
        query, memory, return_attention_scores=True
    )
    outputs = {"logits": layers.Dense(20)(x), "weights": weights}
    return keras.Model({"source": source, "target": target}, outputs)


@idiom(lambda random: ids(random, 50))
def sequential_classifier():
    return keras.Sequential(
        [
            token_input(),
            layers.Embedding(50, 8, mask_zero=True),
            ka.AttentionPooling(ka.AdditiveAttention(6)),
            layers.Dense(2),
        ]
    )


@idiom(lambda random: ids(random, 50))
def attention_over_time_steps():
    tokens = token_input()
    x = layers.Embedding(50, 8, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    pooling = ka.AttentionPooling(ka.AdditiveAttention(6))
    vector, weights = pooling(x, return_attention_scores=True)
    return keras.Model(tokens, {"score": layers.Dense(1)(vector), "weights": weights})


class TokenAndPosition(layers.Layer):
    """The layer of Keras' own transformer tutorial."""

    def __init__(self, most, vocabulary, size):
        super().__init__()
        self.tokens = layers.Embedding(vocabulary, size)
        self.positions = layers.Embedding(most, size)

    def call(self, x):
        positions = keras.ops.arange(0, keras.ops.shape(x)[-1], 1)
        return self.tokens(x) + self.positions(positions)


@idiom(lambda random: ids(random, 300, random.integers(1, 17)))
def the_tutorial_of_keras():
    tokens = token_input()
    x = TokenAndPosition(16, 300, 8)(tokens)
    x = ka.EncoderBlock(ka.MultiHeadAttention(2, 4), ka.FeedForward(16))(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, layers.Dense(2)(x))


def bert_inputs(random):
    batch, length = random.integers(1, 4), random.integers(1, 17)
    mask = random.random((batch, length)) < 0.8
    segments = random.integers(0, 2, (batch, length)).astype("int32")
    tokens = ids(random, 50, length, batch)
    return {"token_ids": tokens, "segment_ids": segments, "padding_mask": mask}


@idiom(bert_inputs)
def bert_with_a_head():
    bert = ka.BertEncoder(50, 1, 2, 8, 16, max_sequence_length=16)
    inputs = {
        "token_ids": token_input("token_ids"),
        "segment_ids": token_input("segment_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }
    return keras.Model(inputs, layers.Dense(3)(bert(inputs)["pooled_output"]))


@idiom(
    lambda random: floats(random, random.integers(1, 4), 16, 16, 1),
    formats=("saved_model", "onnx", "litert"),
)
def vision_transformer():
    image = keras.Input((16, 16, 1), name="image")
    x = ka.PositionEmbedding(16)(ka.PatchEmbedding(4, 8)(image))
    x, weights = ka.MultiHeadAttention(2, 4)(x, x, return_attention_scores=True)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, {"scores": layers.Dense(2)(x), "weights": weights})


def caption_inputs(random):
    batch, length = random.integers(1, 4), random.integers(1, 30)
    return {
        "image": floats(random, batch, 8, 8, 3),
        "words": ids(random, 20, length, batch),
    }


@idiom(caption_inputs)
def captioning():
    image = keras.Input((8, 8, 3), name="image")
    words = token_input("words")
    grid = layers.Conv2D(8, 3, 2)(image)
    memory = layers.Reshape((9, 8))(grid)
    query = layers.Embedding(20, 8)(words)
    x, weights = ka.MultiHeadAttention(2, 4)(
        query, memory, return_attention_scores=True
    )
    outputs = {"logits": layers.Dense(20)(x), "weights": weights}
    return keras.Model({"image": image, "words": words}, outputs)


def speech_inputs(random):
    batch = random.integers(1, 4)
    frames, words = random.integers(7, 60), random.integers(1, 20)
    return [floats(random, batch, frames, 8), ids(random, 20, words, batch)]


@idiom(speech_inputs)
def speech():
    frames = keras.Input((None, 8), name="frames")
    words = token_input("words")
    memory = layers.Conv1D(8, 7, 2)(frames)
    query = layers.Embedding(20, 8)(words)
    x, weights = ka.MultiHeadAttention(2, 4)(
        query, memory, return_attention_scores=True
    )
    return keras.Model([frames, words], {"logits": layers.Dense(20)(x), "w": weights})


@idiom(lambda random: floats(random, random.integers(1, 4), random.integers(1, 50), 3))
def time_series():
    series = keras.Input((None, 3), name="series")
    x = layers.Dense(8)(series)
    x = ka.MultiHeadAttention(2, 4, sliding_window=5)(x, x, use_causal_mask=True)
    return keras.Model(series, layers.Dense(1)(x))


@idiom(lambda random: ids(random, 50))
def keras_own_attention():
    tokens = token_input()
    x = layers.Embedding(50, 8)(tokens)
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization()(x)
    x = layers.Attention()([x, x])
    return keras.Model(tokens, layers.Dense(3)(x))


@idiom(lambda random: ids(random, 50))
def nested_models():
    inner_tokens = token_input("inner")
    y = layers.Embedding(50, 8)(inner_tokens)
    y = ka.MultiHeadAttention(2, 4)(y, y)
    encoder = keras.Model(inner_tokens, y, name="encoder")
    tokens = token_input()
    head = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(2)])
    return keras.Model(tokens, head(encoder(tokens)))


@idiom(lambda random: ids(random, 50))
def named_entities():
    tokens = token_input()
    x = layers.Embedding(50, 8, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    x = x + ka.DotProductAttention()(x, x)
    return keras.Model(tokens, layers.TimeDistributed(layers.Dense(5))(x))


@idiom(lambda random: ids(random, 50, 12).reshape(-1, 3, 4), formats=("saved_model",))
def hierarchical_attention():
    document = keras.Input((3, 4), dtype="int32", name="document")
    x = layers.Embedding(50, 8)(document)
    x = layers.TimeDistributed(ka.AttentionPooling(ka.AdditiveAttention(6)))(x)
    x, weights = ka.AttentionPooling()(x, return_attention_scores=True)
    return keras.Model(document, {"scores": layers.Dense(2)(x), "weights": weights})


def question_inputs(random):
    batch = random.integers(1, 4)
    question, context = random.integers(1, 12), random.integers(1, 40)
    return {
        "question": ids(random, 40, question, batch),
        "context": ids(random, 40, context, batch),
        "context_mask": random.random((batch, context)) < 0.8,
    }


@idiom(question_inputs)
def question_and_context():
    question, context = token_input("question"), token_input("context")
    mask = keras.Input((None,), dtype="bool", name="context_mask")
    embed = layers.Embedding(40, 8)
    q, c = embed(question), embed(context)
    x = ka.MultiHeadAttention(2, 4)(c, q, query_mask=mask)
    start = layers.Dense(1)(x)[..., 0]
    inputs = {"question": question, "context": context, "context_mask": mask}
    return keras.Model(inputs, {"start": start})


@idiom(lambda random: ids(random, 50), formats=("saved_model",), tolerance=5e-2)
def half_precision():
    tokens = token_input()
    policy = "mixed_bfloat16"
    x = layers.Embedding(50, 8, dtype=policy)(tokens)
    x = ka.MultiHeadAttention(2, 4, dtype=policy)(x, x)
    return keras.Model(tokens, layers.Dense(3, dtype=policy)(x))


WORDS = ["the cat sat", "a dog ran far", "nobody", "the dog sat on the cat"]


def texts(random):
    return np.array([[random.choice(WORDS)] for _ in range(random.integers(1, 4))])


@idiom(texts, formats=("saved_model",))
def text_vectorization():
    vectorize = layers.TextVectorization(20, output_sequence_length=6)
    vectorize.adapt(WORDS)
    text = keras.Input((1,), dtype="string", name="text")
    x = layers.Embedding(20, 8, mask_zero=True)(vectorize(text))
    return keras.Model(text, layers.Dense(2)(ka.AttentionPooling()(x)))


def labels(random):
    size = (random.integers(1, 4), random.integers(1, 9))
    return random.choice(["red", "green", "blue", "grey"], size)


@idiom(labels, formats=("saved_model",))
def string_lookup():
    colours = keras.Input((None,), dtype="string", name="colours")
    x = layers.StringLookup(vocabulary=["red", "green", "blue"])(colours)
    x = layers.Embedding(5, 8)(x)
    return keras.Model(colours, layers.Dense(2)(ka.AttentionPooling()(x)))


@idiom(lambda random: floats(random, random.integers(1, 4), 12, 12, 3))
def resized_images():
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Rescaling(0.5)(layers.Resizing(8, 8)(image))
    x = ka.PatchEmbedding(4, 8)(x)
    x = ka.AttentionPooling(ka.MultiHeadAttention(2, 4), num_queries=2)(x)
    return keras.Model(image, layers.Dense(2)(x))


class FourierMixing(layers.Layer):
    """FNet: the Fourier transform in place of attention."""

    def call(self, x):
        return keras.ops.fft2((x, keras.ops.zeros_like(x)))[0]


@idiom(
    lambda random: floats(random, random.integers(1, 4), 8, 4),
    formats=("saved_model",),
)
def fourier_mixing():
    x = keras.Input((8, 4), name="x")
    return keras.Model(x, layers.Dense(2)(FourierMixing()(x)))


class Subclassed(keras.Model):
    """A model that says nothing about its inputs."""

    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(50, 8, mask_zero=True)
        self.block = ka.EncoderBlock(ka.MultiHeadAttention(2, 4), ka.FeedForward(16))
        self.head = layers.Dense(2)

    def call(self, inputs, training=None):
        x = self.block(self.embedding(inputs["tokens"]), training=training)
        return {"scores": self.head(x), "lengths": inputs["bias"] + x[..., 0]}


def subclassed_inputs(random):
    tokens = ids(random, 50)
    return {"tokens": tokens, "bias": floats(random, *tokens.shape)}


SAMPLE = {"tokens": np.ones((2, 7), "int32"), "bias": np.ones((2, 7), "float32")}


def built_subclass():
    model = Subclassed()
    model(SAMPLE)
    return model


@idiom(
    subclassed_inputs,
    options={
        "sample_inputs": SAMPLE,
        "axes": {"tokens": ("batch", "length"), "bias": ("batch", "length")},
    },
)
def subclassed_with_a_sample():
    return built_subclass()


@idiom(
    subclassed_inputs,
    options={
        "input_signature": {
            "tokens": keras.InputSpec(shape=(None, None), dtype="int32"),
            "bias": keras.InputSpec(shape=(None, None), dtype="float32"),
        }
    },
)
def subclassed_with_a_signature():
    return built_subclass()


@idiom(lambda random: ids(random, 50, 32), formats=("saved_model", "onnx", "litert"))
def fixed_length_with_positions():
    tokens = token_input(length=32)
    x = ka.PositionEmbedding(32)(layers.Embedding(50, 8)(tokens))
    x = ka.EncoderBlock(ka.MultiHeadAttention(2, 4), ka.FeedForward(16))(x)
    return keras.Model(tokens, layers.Dense(2)(x))


@idiom(lambda random: ids(random, 50))
def mini_gpt():
    tokens = token_input()
    x = layers.Embedding(50, 8)(tokens)
    attention = ka.MultiHeadAttention(
        4, 2, num_key_value_heads=2, position=ka.RotaryEmbedding()
    )
    x = ka.DecoderBlock(attention, ka.FeedForward(16), normalization="rms")(x)
    return keras.Model(tokens, layers.Dense(50)(x))
