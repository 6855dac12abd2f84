"""generation_config.json: the settings of `generate` that a checkpoint brings.

Every entry that changes what transformers generates is applied, or refused by name. The
entries are read by transformers' rules: those that only sampling or only beam search
uses have no effect without it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from keras_attention import untrusted
from keras_attention.tasks import generation_defaults
from keras_attention.weights import config_types


class Entry(NamedTuple):
    """An entry that is applied.

    Attributes:
        ours: Its name in `GenerationSettings`.
        expected: What its value is, for errors.
        is_right: A function of a value that returns whether it can be read.
        only: `"do_sample"` or `"num_beams"` if it has an effect with these only.
        none: A value that means the same as no entry.
    """

    ours: str
    expected: str
    is_right: Callable[[Any], bool]
    only: str = ""
    none: Any = None


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= config_types.MAX_SIZE


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= config_types.MAX_NUMBER


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value))


def _rows_of_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_ids(row) and row for row in value)


def _bias(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and _ids(pair[0]) and _number(pair[1])
        for pair in value
    )


def _strings(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    )


_INTEGER = ("an integer of 0 or more", _whole)
_NUMBER = ("a number", _number)
_IDS = ("a list of ids of tokens", _ids)
_SAMPLE, _BEAMS = "do_sample", "num_beams"
APPLIED = {
    "max_length": Entry("max_length", *_INTEGER),
    "max_new_tokens": Entry("max_new_tokens", *_INTEGER),
    "min_length": Entry("min_length", *_INTEGER, none=0),
    "min_new_tokens": Entry("min_new_tokens", *_INTEGER),
    "do_sample": Entry("do_sample", "true or false", _flag, none=False),
    "num_beams": Entry("num_beams", *_INTEGER, none=1),
    "num_return_sequences": Entry("num_return_sequences", *_INTEGER, none=1),
    "temperature": Entry("temperature", *_NUMBER, _SAMPLE, 1),
    "top_k": Entry("top_k", *_INTEGER, _SAMPLE, 0),
    "top_p": Entry("top_p", *_NUMBER, _SAMPLE, 1),
    "min_p": Entry("min_p", *_NUMBER, _SAMPLE),
    "typical_p": Entry("typical_p", *_NUMBER, _SAMPLE, 1),
    "repetition_penalty": Entry("repetition_penalty", *_NUMBER, none=1),
    "no_repeat_ngram_size": Entry("no_repeat_ngram_size", *_INTEGER, none=0),
    "length_penalty": Entry("length_penalty", *_NUMBER, _BEAMS, 1),
    "early_stopping": Entry(
        "early_stopping",
        "true, false or 'never'",
        lambda value: _flag(value) or value == "never",
        _BEAMS,
        False,
    ),
    "num_beam_groups": Entry("num_beam_groups", *_INTEGER, _BEAMS, 1),
    "diversity_penalty": Entry("diversity_penalty", *_NUMBER, _BEAMS, 0),
    "renormalize_logits": Entry(
        "renormalize_logits", "true or false", _flag, _BEAMS, False
    ),
    "bad_words_ids": Entry("bad_words", "lists of ids of tokens", _rows_of_ids, "", []),
    "suppress_tokens": Entry("suppress_tokens", *_IDS, none=[]),
    "sequence_bias": Entry("logit_bias", "pairs of ids and a number", _bias),
    "stop_strings": Entry("stop_strings", "a list of strings", _strings, "", []),
}
# Entries that are not computed here -> the values with which they change nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "guidance_scale": (1,),
    "max_time": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
REFUSED_IN_SAMPLING: dict[str, tuple[Any, ...]] = {
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
}
TOP_K = 50  # of transformers, where sampling has no top_k


def defaults_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `defaults` of a task that generates.

    Args:
        config: The entries of generation_config.json, or those of config.json where
            there is no such file.
    """
    given = {name: config[name] for name in APPLIED if config.get(name) is not None}
    for name, value in given.items():
        if not APPLIED[name].is_right(value):
            raise _wrong(name, value, f"must be {APPLIED[name].expected}")
    samples = bool(given.get("do_sample"))
    contrastive = bool(config.get("penalty_alpha")) and not samples
    _refuse(config, samples)
    modes = {"": True, _SAMPLE: samples, _BEAMS: given.get("num_beams", 1) > 1}
    found: dict[str, Any] = {}
    if samples and "top_k" not in given:
        found["top_k"] = TOP_K
    for name, value in given.items():
        entry = APPLIED[name]
        has_effect = modes[entry.only] or (name == "top_k" and contrastive)
        if has_effect and value != entry.none:
            found[entry.ours] = value
    if contrastive and modes[""] and not modes[_BEAMS]:
        alpha = config["penalty_alpha"]
        if not _number(alpha):
            raise _wrong("penalty_alpha", alpha, "must be a number")
        found |= {"penalty_alpha": alpha, "top_k": found.get("top_k", TOP_K)}
    if isinstance(found.get("stop_strings"), str):
        found["stop_strings"] = [found["stop_strings"]]
    ends = config.get("eos_token_id")
    if ends is not None:
        found["stop_token_ids"] = ends if isinstance(ends, list) else [ends]
    try:
        return generation_defaults.checked(found)
    except ValueError as error:
        raise ValueError(
            "generation_config.json has settings that are not supported here: "
            f"{untrusted.clip(error, 1500)}"
        ) from None


def _refuse(config: Mapping[str, Any], samples: bool) -> None:
    table = {**REFUSED, **(REFUSED_IN_SAMPLING if samples else {})}
    for name, neutral in table.items():
        value = config.get(name)
        if value is not None and not any(value == one for one in neutral):
            raise _wrong(name, value, "is not supported here")


def _wrong(name: str, value: Any, what: str) -> ValueError:
    return ValueError(
        f"`{name}` in generation_config.json {what}. Remove the entry from the file, "
        "and pass settings to `generate` instead; or load the model with "
        f"task='backbone'. Received: {name}={untrusted.show(value)}"
    )


def entries_of(model: Any) -> dict[str, Any]:
    """Returns the generation_config.json of a task, the inverse of `defaults_of`.

    Args:
        model: A `CausalLM` or a `Seq2SeqLM`.
    """
    own, entries = model.defaults, {}
    for name, entry in APPLIED.items():
        if entry.ours in own:
            entries[name] = own[entry.ours]
    if isinstance(entries.get("sequence_bias"), Mapping):
        entries["sequence_bias"] = [
            [list(tokens) if isinstance(tokens, tuple) else [tokens], value]
            for tokens, value in entries["sequence_bias"].items()
        ]
    if own.get("do_sample") and own.get("top_k") is None:
        entries["top_k"] = 0
    if "penalty_alpha" in own:
        entries["penalty_alpha"] = own["penalty_alpha"]
    ends = own.get("stop_token_ids")
    if ends is None:
        end = getattr(model.tokenizer, "eos_token_id", None)
        ends = [] if end is None else [end]
    if ends:
        entries["eos_token_id"] = list(ends) if len(ends) > 1 else ends[0]
    for role in ("bos", "pad"):
        token = getattr(model.tokenizer, f"{role}_token_id", None)
        if token is not None:
            entries[f"{role}_token_id"] = token
    return entries
