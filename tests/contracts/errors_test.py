"""A wrong argument is refused with an error that names it and what was received.

One kind of each call path stands for all kinds, which share the code that refuses.
"""

import keras
import numpy as np
import pytest
from contracts.kinds import CALL_PATHS, KINDS, B, S, T

import keras_attention as ka
from keras_attention.layers.feed_forward import FeedForward

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
every_call_path = pytest.mark.parametrize(
    "kind", CALL_PATHS, ids=lambda kind: kind.name
)
ONES = np.ones((B, T, S), bool)

# what is wrong, the arguments with query, value and key, parts of the message
WRONG_MASKS = [
    (
        "float",
        {"attention_mask": np.zeros((B, T, S))},
        "attention_mask",
        "attention_bias=",
    ),
    ("int", {"attention_mask": np.ones((B, T, S), int)}, "attention_mask", "!= 0"),
    ("float list", {"attention_mask": [[[0.3]]]}, "attention_mask", "bool"),
    ("int padding", {"value_mask": np.ones((B, S), int)}, "value_mask", "!= 0"),
    ("float padding", {"query_mask": np.ones((B, T))}, "query_mask", "bool"),
    ("int key padding", {"key_mask": np.ones((B, S), int)}, "key_mask", "bool"),
    ("(B, S)", {"attention_mask": ONES[:, 0]}, "attention_mask", "`value_mask=`"),
    ("(T, S)", {"attention_mask": ONES[0]}, "attention_mask", r"mask\[None\]"),
    ("rank 5", {"attention_mask": ONES[:, None, None]}, "attention_mask", "shape"),
    ("batch", {"attention_mask": np.ones((7, T, S)) > 0}, "attention_mask", "batch 2"),
    ("queries", {"attention_mask": ONES[:, :2]}, "attention_mask", "query length 3"),
    ("keys", {"attention_mask": ONES[:, :, :4]}, "attention_mask", "key length 5"),
    (
        "padding length",
        {"value_mask": ONES[:, 0, :4]},
        "value_mask",
        "length of `value`",
    ),
    ("padding batch", {"value_mask": np.ones((7, S)) > 0}, "value_mask", "batch size"),
    (
        "padding of one",
        {"value_mask": ONES[:, 0, :1]},
        "value_mask",
        "length of `value`",
    ),
    ("query length", {"query_mask": ONES[:, 0]}, "query_mask", "length of `query`"),
    ("key length", {"key_mask": ONES[:, :, 0]}, "key_mask", "length of `key`"),
    ("padding rank", {"value_mask": ONES}, "value_mask", r"\[batch, length\]"),
    (
        "int bias",
        {"attention_bias": np.ones((B, T, S), int)},
        "attention_bias",
        "float",
    ),
    ("bool bias", {"attention_bias": ONES}, "attention_bias", "attention_mask="),
    ("bias rank", {"attention_bias": np.ones((T, S))}, "attention_bias", "shape"),
    (
        "bias keys",
        {"attention_bias": np.ones((B, T, 4))},
        "attention_bias",
        "key length",
    ),
]


@every_call_path
@pytest.mark.parametrize(
    ("wrong", "name", "hint"),
    [pytest.param(*case, id=what) for what, *case in WRONG_MASKS],
)
def test_a_wrong_mask_or_bias_is_refused(kind, wrong, name, hint):
    if wrong.get(name) is None:
        raise AssertionError("the case names another argument")
    with pytest.raises(ValueError, match=rf"(?s)`{name}`.*{hint}.*Received: {name}="):
        kind.call(kind.shared(), *kind.inputs(), **wrong)


@every_kind
def test_every_kind_refuses_a_padding_mask_as_attention_mask_even_if_it_fits(kind):
    square = kind.inputs(batch=S, queries=S)  # B = T = S
    with pytest.raises(ValueError, match=r"`attention_mask`.*`value_mask=`.*Received"):
        kind.call(kind.make(), *square, attention_mask=np.ones((S, S), bool))


@every_call_path
@pytest.mark.parametrize("position", range(3), ids=["query", "value", "key"])
def test_an_input_of_another_rank_is_refused(kind, position):
    name = ("query", "value", "key")[position]
    for shape in (lambda x: x[0], lambda x: x[None]):
        inputs = kind.inputs()
        layer = kind.shared()
        inputs[position] = shape(inputs[position])
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: {name}="):
            layer(*inputs)


@every_call_path
def test_key_and_value_of_different_lengths_are_refused(kind):
    query, value, key = kind.inputs()
    with pytest.raises(ValueError, match=r"`key` and `value` .* same length.*Received"):
        kind.call(kind.make(), query, value, key[:, :4])


@every_call_path
def test_different_batch_sizes_are_refused(kind):
    query, value, key = kind.inputs()
    with pytest.raises(ValueError, match=r"same batch size.*Received: query="):
        kind.call(kind.make(), query[:1], value, key)


@every_call_path
def test_a_missing_value_is_refused(kind):
    query, *_ = kind.inputs()
    with pytest.raises(ValueError, match=r"needs a query and a value.*Received"):
        kind.make()(query)
    with pytest.raises(ValueError, match=r"needs a query and a value.*Received"):
        kind.make()([query])


@every_call_path
def test_a_causal_mask_over_other_lengths_is_not_guessed(kind):
    if kind.needs_positions:
        pytest.skip("positions must be given to this kind, and are")
    with pytest.raises(ValueError, match=r"position of the first query.*Received"):
        kind.make()(*kind.inputs(), use_causal_mask=True)


@every_call_path
def test_wrong_dropout_is_refused(kind):
    for dropout in (-0.1, 1.0, 50):
        with pytest.raises(
            ValueError, match=rf"`dropout`.*Received: dropout={dropout}"
        ):
            kind.make(dropout=dropout)


MULTI, LOCAL = ka.MultiHeadAttention, ka.LocalAttention
WRONG_ARGUMENTS = [
    (ka.AdditiveAttention, {"units": 0}, "units", "units=0"),
    (ka.DotProductAttention, {"score": "concat"}, "score", "score='concat'"),
    (ka.GlobalAttention, {"score": "cosine"}, "score", "score='cosine'"),
    (LOCAL, {"alignment": "global"}, "alignment", "alignment='global'"),
    (LOCAL, {"window": 0}, "window", "window=0"),
    (LOCAL, {"score": "location"}, "score", "score='location'"),
    (MULTI, {"num_heads": 0, "key_dim": 3}, "num_heads", "num_heads=0"),
    (MULTI, {"num_heads": 2, "key_dim": 0}, "key_dim", "key_dim=0"),
    (
        MULTI,
        {"num_heads": 6, "key_dim": 3, "num_key_value_heads": 4},
        "num_key_value_heads",
        "num_key_value_heads=4",
    ),
    (
        MULTI,
        {"num_heads": 2, "key_dim": 3, "sliding_window": 0},
        "sliding_window",
        "=0",
    ),
    (
        MULTI,
        {"num_heads": 2, "key_dim": 3, "sliding_window": (1, -1)},
        "sliding_window",
        r"=\(1, -1\)",
    ),
    (
        MULTI,
        {"num_heads": 2, "key_dim": 3, "sliding_window": (1, 2, 3)},
        "sliding_window",
        r"=\(1, 2, 3\)",
    ),
    (ka.SinusoidalEncoding, {"layout": "paper"}, "layout", "layout='paper'"),
    (ka.SinusoidalEncoding, {"max_wavelength": 0}, "max_wavelength", "=0"),
    (
        ka.EncoderBlock,
        {"attention": MULTI(1, 2), "feed_forward": FeedForward(3), "norm": "none"},
        "norm",
        "norm='none'",
    ),
    (ka.BertEncoder, {"vocabulary_size": 5, "hidden_dim": 10}, "hidden_dim", "=10"),
    (ka.GPTDecoder, {"vocabulary_size": 5, "num_heads": 7}, "num_heads", "=7"),
]


@pytest.mark.parametrize(
    ("layer", "arguments", "name", "received"),
    [
        pytest.param(*case, id=f"{case[0].__name__}-{case[2]}")
        for case in WRONG_ARGUMENTS
    ],
)
def test_a_wrong_constructor_argument_is_refused(layer, arguments, name, received):
    with pytest.raises(ValueError, match=rf"(?s)`{name}`.*Received: .*{received}"):
        layer(**arguments)


def test_a_dot_product_of_different_sizes_is_refused_with_a_remedy():
    query, value = np.ones((B, T, 7)), np.ones((B, S, 11))
    for layer in (ka.DotProductAttention("dot"), ka.GlobalAttention("dot")):
        with pytest.raises(
            ValueError, match=r"score='general'.*Received: query size 7"
        ):
            layer(query, value)


def test_the_location_score_needs_a_max_length_and_shorter_keys():
    query, value = np.ones((B, T, 7)), np.ones((B, S, 11))
    with pytest.raises(ValueError, match=r"`max_length`.*Received: max_length=None"):
        ka.GlobalAttention("location")(query, value)
    with pytest.raises(
        ValueError, match=r"larger `max_length`.*Received: max_length=4"
    ):
        ka.GlobalAttention("location", max_length=4)(query, value)


def test_an_unknown_argument_is_refused():
    with pytest.raises((TypeError, ValueError), match="atention_mask"):
        ka.DotProductAttention()(
            np.ones((B, T, 7)), np.ones((B, S, 7)), atention_mask=1
        )
    with pytest.raises((TypeError, ValueError), match="num_head"):
        ka.AdditiveAttention(5, num_head=3)


def test_a_functional_model_with_a_wrong_mask_is_refused():
    query, value = keras.Input((T, 7)), keras.Input((S, 7))
    with pytest.raises(
        ValueError, match=r"`attention_mask`.*Received: attention_mask="
    ):
        ka.DotProductAttention()(query, value, attention_mask=keras.Input((T, S)))
    with pytest.raises(ValueError, match=r"`value_mask`.*Received: value_mask="):
        ka.DotProductAttention()(
            query, value, value_mask=keras.Input((T,), dtype="bool")
        )
