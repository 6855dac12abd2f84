"""Checks the types and ranges of the entries of a config.json. Does not import Keras.

Only the entries from which an argument is made are in the tables. Each can be null.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from keras_attention import untrusted

MAX_SIZE = 2**31 - 1
MAX_NUMBER = 10**18
MAX_LABELS = 2**17


def check(config: Mapping[str, Any], source: Any) -> None:
    """Refuses entries of a wrong type or out of range, by name.

    Args:
        config: The parsed file.
        source: The path of the file, for errors.
    """
    for (expected, is_right), names in _KINDS.items():
        for name in names.split():
            value = config.get(name)
            if value is not None and not is_right(value):
                raise ValueError(
                    f"config.json must have {expected} as {name}. Fetch the file "
                    f"again. Received: {name}={untrusted.show(value)} in "
                    f"{untrusted.clip(source)}"
                )


def _integer(least: int, most: int = MAX_SIZE) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _number(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and least <= value <= most


def _list(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_size, _token = _integer(1), _integer(-1)


def _one_or_two_sizes(value: Any) -> bool:
    return _size(value) or (_list(_size)(value) and len(value) == 2)


def _one_or_more_tokens(value: Any) -> bool:
    return _token(value) or (_list(_token)(value) and len(value) > 0)


def _labels(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isascii() and key.isdecimal() and len(key) < 9 and isinstance(name, str)
        for key, name in value.items()
    )


# Of the dict with the settings of rotary positions. Their values are checked by the
# layer too; here only that they are numbers.
_POSITIVE = ("original_max_position_embeddings", "factor", "rope_theta")


def _rope(value: Any) -> bool:
    return isinstance(value, dict) and all(
        inner is None
        or isinstance(inner, bool | dict)  # a dict is refused with its reason
        or (name in ("type", "rope_type") and isinstance(inner, str))
        or (_is_finite(inner) and (inner > 0 or name not in _POSITIVE))
        or (isinstance(inner, list) and all(map(_is_finite, inner)))
        for name, inner in value.items()
    )


def _is_finite(value: Any) -> bool:
    return (
        type(value) in (int, float) and abs(value) < MAX_NUMBER and math.isfinite(value)
    )


# (what is expected, a function that checks it) -> names of entries.
_KINDS: dict[tuple[str, Callable[[Any], bool]], str] = {
    ("a positive integer below 2³¹", _size): (
        "vocab_size decoder_vocab_size max_position_embeddings n_positions "
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
        "num_decoder_layers num_attention_heads n_head n_heads num_heads "
        "encoder_attention_heads decoder_attention_heads num_key_value_heads "
        "hidden_size intermediate_size n_embd n_inner dim hidden_dim d_model d_kv d_ff "
        "encoder_ffn_dim decoder_ffn_dim head_dim num_channels sliding_window "
        "relative_attention_num_buckets relative_attention_max_distance "
        "original_max_position_embeddings"
    ),
    ("an integer from 0 to 2³¹", _integer(0)): "type_vocab_size max_window_layers",
    (f"an integer from 1 to {MAX_LABELS}", _integer(1, MAX_LABELS)): "num_labels",
    ("one or two positive integers", _one_or_two_sizes): "image_size patch_size",
    ("the id of a token", _token): (
        "pad_token_id decoder_start_token_id forced_bos_token_id"
    ),
    ("the id of a token or a list of them", _one_or_more_tokens): (
        "eos_token_id forced_eos_token_id"
    ),
    ("lists of ids of tokens", _list(_list(_token))): "bad_words_ids",
    ("a number from 0 to 1", _number(0, 1)): (
        "dropout hidden_dropout_prob attention_probs_dropout_prob attention_dropout "
        "activation_dropout resid_pdrop embd_pdrop attn_pdrop dropout_rate qa_dropout "
        "classifier_dropout seq_classif_dropout layer_norm_eps rms_norm_eps "
        "layer_norm_epsilon"
    ),
    ("a number from 1 to 10¹⁸", _number(1, MAX_NUMBER)): "rope_theta",
    ("a finite number", _is_finite): "partial_rotary_factor",
    ("true or false", _is(bool)): (
        "tie_word_embeddings use_sliding_window attention_bias mlp_bias "
        "scale_embedding scale_decoder_outputs"
    ),
    ("a string", _is(str)): (
        "model_type hidden_act activation_function activation feed_forward_proj "
        "problem_type"
    ),
    ("a list of strings", _list(_is(str))): "architectures layer_types",
    ("an object of numbers and labels", _labels): "id2label",
    ("an object of settings", _rope): "rope_parameters rope_scaling",
}
