"""Every option that is one of a few words says so in its type, and no word more.

The words of the type, which checkers read, and those that the constructor accepts are
compared, so that they stay the same.
"""

import inspect
import types
import typing

import keras
import pytest

import keras_attention as ka
from keras_attention.blocks.residual import Residual
from keras_attention.models.loading import register_classes

ATTENTION = {"attention": lambda: ka.MultiHeadAttention(2, 4)}
NEEDED = {
    "vocabulary_size": lambda: 9,
    "hidden_dim": lambda: 8,
    "num_heads": lambda: 2,
    "key_dim": lambda: 4,
    "patch_size": lambda: 4,
    "feed_forward": lambda: ka.FeedForward(8),
    "max_sequence_length": lambda: 16,
    "max_length": lambda: 16,
}
PACKAGES = ("layers", "blocks", "models")
# Arguments that are any word: a name, or one of Keras' own functions.
FREE = {"activation"}


def classes():
    """The public layers, blocks and models, and `Residual`."""
    register_classes()
    found = [getattr(ka, name) for name in ka.__all__] + [Residual]
    return [
        kind
        for kind in found
        if inspect.isclass(kind)
        and issubclass(kind, keras.layers.Layer)
        and kind.__module__.split(".")[1] in PACKAGES
    ]


def parts_of(hint):
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def options():
    """Yields (class, argument, its words); words are `None` for a plain `str`."""
    for kind in classes():
        for name, hint in typing.get_type_hints(kind.__init__).items():
            for part in parts_of(hint):
                if typing.get_origin(part) is typing.Literal:
                    yield kind, name, typing.get_args(part)
                elif part is str and name not in FREE:
                    yield kind, name, None


OPTIONS = list(options())


def make(kind, **chosen):
    arguments = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        required = parameter.default is parameter.empty
        if name in chosen or name in {"kwargs", "self"}:
            continue
        if required or name in ("vocabulary_size", "hidden_dim", "num_heads"):
            one = {**NEEDED, **ATTENTION}.get(name)
            if one is not None:
                arguments[name] = one()
        elif name in ("max_sequence_length", "max_length"):
            arguments[name] = 16
        elif name in ("num_layers",):
            arguments[name] = 1
        elif name == "intermediate_dim":
            arguments[name] = 8
    return kind(**arguments, **chosen)


def test_the_options_are_found():
    found = {(kind.__name__, name) for kind, name, _ in OPTIONS}
    assert ("EncoderBlock", "norm") in found
    assert ("GPTDecoder", "head") in found
    assert ("MultiHeadAttention", "use_bias") in found
    assert len(found) >= 22


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    OPTIONS,
    ids=[f"{kind.__name__}-{name}" for kind, name, _ in OPTIONS],
)
def test_the_words_of_a_type_are_those_that_are_accepted(kind, name, words):
    assert words, f"`{name}` of {kind.__name__} is a plain str: say which words"
    for word in words:
        made = make(kind, **{name: word})
        assert made.get_config()[name] == word
    others = {word for _, _, listed in OPTIONS for word in listed or ()} - {*words}
    for word in ["middle", *sorted(others)]:
        with pytest.raises(ValueError, match=f"`{name}` must.*Received: {name}="):
            make(kind, **{name: word})
