"""The pre-tokenizers of a `tokenizer.json`, each a function from state to state."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attention.text import sections
from keras_attention.text.codes import state as pieces
from keras_attention.text.codes import unicode_categories, unicode_sets
from keras_attention.text.codes.regex import Matches, Pattern
from keras_attention.text.codes.state import ADDED, CodeTable, State
from keras_attention.text.json_files import refuse
from keras_attention.text.patterns import GPT2_PATTERN, byte_characters
from keras_attention.text.pipeline.normalizers import CodeMap, Step, chain

BEHAVIORS = (
    "Removed",
    "Isolated",
    "MergedWithPrevious",
    "MergedWithNext",
    "Contiguous",
)


def _apart(state: State, found: Matches, behavior: str) -> State:
    """Cuts a state at matches, as `SplitDelimiterBehavior` says."""
    after = tf.concat([[False], found.ends[:-1]], 0)
    starts = found.begins | after
    if behavior == "MergedWithNext":
        starts = found.begins
    elif behavior == "MergedWithPrevious":
        starts = after
    elif behavior == "Contiguous":
        starts &= ~(found.begins & after)
    state = pieces.cut(state, starts)
    if behavior == "Removed":
        state = _kept(state, ~found.inside)
    return state


def _kept(state: State, remains: tf.Tensor) -> State:
    """Returns the state without some codes, and without the pieces of these."""
    state = pieces.only(state, remains)
    return pieces.cut(state, tf.zeros_like(state.codes, tf.bool))


def _classes(
    members: np.ndarray, individual: bool = True
) -> Callable[[State], Matches]:
    """Returns a function that finds the code points of a set."""
    table = CodeTable(members.astype(np.int32))

    def find(state: State) -> Matches:
        inside = table(state.codes) > 0
        if individual:
            return Matches(inside, inside, inside)
        first, last = pieces.first_codes(state), pieces.last_codes(state)
        before = tf.concat([[False], inside[:-1]], 0) & ~first
        after = tf.concat([inside[1:], [False]], 0) & ~last
        return Matches(inside & ~before, inside & ~after, inside)

    return find


def _splitter(find: Callable[[State], Matches], behavior: str) -> Step:
    return lambda state: _apart(state, find(state), behavior)


def _behavior(name: str, section: Any) -> str:
    if name not in BEHAVIORS:
        refuse("the behavior", ", ".join(BEHAVIORS), section)
    return name


def _split(section: Any) -> Step:
    pattern, behavior, invert = sections.entries(
        section, pattern=None, behavior="", invert=False
    )
    _behavior(behavior, section)
    find = Pattern(pattern)
    if not invert:
        return _splitter(find, behavior)
    if behavior not in {"Removed", "Isolated"}:
        refuse("an inverted Split", "Removed or Isolated", section)

    def step(state: State) -> State:
        found = find(state)
        outside = ~found.inside & (state.codes < ADDED)
        state = _apart(state, found, "Isolated")
        return _kept(state, ~outside) if behavior == "Removed" else state

    return step


def _byte_level(section: Any) -> Step:
    add_space, _, use_regex = sections.entries(
        section, add_prefix_space=True, trim_offsets=True, use_regex=True
    )
    steps: list[Step] = []
    if add_space:
        steps.append(_prefixed(" "))
    if use_regex:
        steps.append(_splitter(Pattern({"Regex": GPT2_PATTERN}), "Isolated"))
    return chain([*steps, _to_bytes()])


def _prefixed(letters: str, only_first: bool = False, unsplit: bool = True) -> Step:
    """Returns the step that puts a letter before pieces that begin with another one."""

    def step(state: State) -> State:
        where = pieces.first_codes(state) & (state.codes < ADDED)
        where &= state.codes != ord(letters)
        if only_first:
            is_first = state.starts == 0
            if unsplit:  # a text begins where it did, whatever was removed from it
                inner = tf.gather(state.bounds, state.rows[:-1])
                size = tf.size(state.codes, tf.int64)
                ones = tf.ones_like(inner, tf.int32)
                is_first |= tf.scatter_nd(inner[:, None], ones, [size + 1])[:-1] > 0
            where &= is_first
        return pieces.inserted(state, where, letters)

    return step


def _to_bytes() -> Step:
    """Returns the step that writes each byte of UTF-8 as GPT-2's letter for it."""
    table = np.array([ord(letter) for _, letter in sorted(byte_characters().items())])
    # A code point of one byte is looked up, of several it is computed.
    ascii_map = CodeMap({code: (int(table[code]),) for code in range(0x80)})

    def step(state: State) -> State:
        return tf.cond(
            tf.reduce_any((state.codes >= 0x80) & (state.codes < ADDED)),
            lambda: _all_bytes(state, tf.constant(table, tf.int32)),
            lambda: ascii_map(state),
        )

    return step


def _all_bytes(state: State, table: tf.Tensor) -> State:
    is_token = state.codes >= ADDED
    sizes = tf.where(is_token, 1, pieces.utf8_sizes(state.codes))
    state, place, turn = pieces.repeated(state, sizes)
    byte = pieces.utf8_byte(state.codes, tf.gather(sizes, place), turn)
    letters = tf.where(state.codes >= ADDED, state.codes, tf.gather(table, byte))
    return state._replace(codes=letters)


def _metaspace(section: Any, unsplit: bool) -> Step:
    letter, scheme, split, add_space, _ = sections.entries(
        section,
        replacement="▁",
        prepend_scheme="",
        split=True,
        add_prefix_space=None,
        str_rep=None,
    )
    if not scheme:
        scheme = "never" if add_space is False else "always"
    if scheme not in {"always", "first", "never"} or len(letter) != 1:
        refuse("the prepend_scheme", "always, first or never", section)
    steps: list[Step] = [CodeMap({32: (ord(letter),)})]
    if scheme != "never":
        steps.append(_prefixed(letter, scheme == "first", unsplit))
    if split:
        steps.append(_splitter(Pattern({"String": letter}), "MergedWithNext"))
    return chain(steps)


def _digits(section: Any) -> Step:
    (individual,) = sections.entries(section, individual_digits=False)
    find = _classes(unicode_categories.members("N"), individual)
    return _splitter(find, "Isolated" if individual else "Contiguous")


def _punctuation(section: Any) -> Step:
    (behavior,) = sections.entries(section, behavior="Isolated")
    return _splitter(_classes(unicode_sets.punctuation()), _behavior(behavior, section))


def _whitespace_split(section: Any) -> Step:
    sections.entries(section)
    return _splitter(_classes(unicode_categories.members("space")), "Removed")


def _bert(section: Any) -> Step:
    sections.entries(section)
    spaces = _classes(unicode_categories.members("space"))
    signs = _classes(unicode_sets.punctuation())
    return chain([_splitter(spaces, "Removed"), _splitter(signs, "Isolated")])


def _whitespace(section: Any) -> Step:
    sections.entries(section)
    words = unicode_categories.words()
    others = ~(words | unicode_categories.members("space"))
    steps = [
        _splitter(_classes(unicode_categories.members("space")), "Removed"),
        _splitter(_classes(words, individual=False), "Isolated"),
        _splitter(_classes(others, individual=False), "Isolated"),
    ]
    return chain(steps)


def _delimiter(section: Any) -> Step:
    (delimiter,) = sections.entries(section, delimiter="")
    return _splitter(Pattern({"String": delimiter}), "Removed")


_SPLITTERS: dict[str, Callable[[Any], Step]] = {
    "BertPreTokenizer": _bert,
    "ByteLevel": _byte_level,
    "CharDelimiterSplit": _delimiter,
    "Digits": _digits,
    "Metaspace": functools.partial(_metaspace, unsplit=False),
    "Punctuation": _punctuation,
    "Split": _split,
    "Whitespace": _whitespace,
    "WhitespaceSplit": _whitespace_split,
}


def read(section: Any) -> Step:
    """Returns the pre-tokenizer of a `tokenizer.json`."""
    found = sections.steps(section, "pretokenizers")
    steps = [sections.one_of(one, "pre_tokenizer", _SPLITTERS)(one) for one in found]
    if found and found[0]["type"] == "Metaspace":
        steps[0] = _metaspace(found[0], unsplit=True)
    return chain(steps)
