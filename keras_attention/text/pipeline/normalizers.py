"""The normalizers of a `tokenizer.json`, each a function from state to state."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attention.text import sections
from keras_attention.text.codes import forms, unicode_categories, unicode_sets
from keras_attention.text.codes import state as pieces
from keras_attention.text.codes.regex import Pattern
from keras_attention.text.codes.state import ADDED, CodeTable, State
from keras_attention.text.pipeline.charsmap import Charsmap

Step = Callable[[State], State]
# Control characters that Nmt removes, and what it makes a space.
_NMT_GONE = "1-8 b e-1f 7f 8f 9f"
_NMT_SPACE = "9-a c-d 1680 200b-200f 2028-2029 2581 feff fffd"


class CodeMap:
    """Replaces code points by none, one or several others.

    Args:
        targets: `{code: codes}` of those that change.
    """

    def __init__(self, targets: Mapping[int, tuple[int, ...]]) -> None:
        numbers = np.zeros(ADDED, np.int32)
        sources = [*targets]
        distinct = {
            target: n for n, target in enumerate(dict.fromkeys(targets.values()))
        }
        numbers[sources] = [1 + distinct[targets[code]] for code in sources]
        sizes = [1, *map(len, distinct)]
        letters = [0, *(letter for target in distinct for letter in target)]
        self._numbers = CodeTable(numbers)
        with tf.init_scope():
            self._sizes = tf.constant(sizes, tf.int32)
            self._first = tf.constant(np.cumsum(sizes) - sizes, tf.int32)
            self._letters = tf.constant(letters, tf.int32)

    def __call__(self, state: State) -> State:
        """Returns the state with its new code points."""
        numbers = self._numbers(state.codes)
        return tf.cond(
            tf.reduce_any(numbers > 0),
            lambda: self._mapped(state, numbers),
            lambda: state,
        )

    def _mapped(self, state, numbers):
        state, place, turn = pieces.repeated(state, tf.gather(self._sizes, numbers))
        numbers = tf.gather(numbers, place)
        new = tf.gather(self._letters, tf.gather(self._first, numbers) + turn)
        return state._replace(codes=tf.where(numbers > 0, new, state.codes))


def composed(form: str) -> Step:
    """Returns the normalizer of a Unicode form, `"NFC"` or one of the other three."""

    def step(state: State) -> State:
        text = state.codes, state.bounds, state.starts, state.ends
        codes, bounds, starts, ends = forms.composed(text, ADDED, form)
        return State(codes, starts, ends, bounds, state.rows)

    return step


def _lowercase(section: Any) -> Step:
    sections.entries(section)
    return CodeMap(unicode_sets.lowered())


def _without_accents(section: Any) -> Step:
    sections.entries(section)
    return _without(unicode_categories.members("M"))


def _without(codes: np.ndarray) -> Step:
    return CodeMap(dict.fromkeys(np.flatnonzero(codes).tolist(), ()))


def _bert(section: Any) -> Step:
    clean, chinese, accents, lower = sections.entries(
        section,
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=None,
        lowercase=True,
    )
    steps: list[Step] = []
    targets: dict[int, tuple[int, ...]] = {}
    if clean:
        spaces = np.flatnonzero(unicode_sets.whitespace()).tolist()
        gone = np.flatnonzero(unicode_sets.controls()).tolist()
        targets = {**dict.fromkeys(spaces, (32,)), **dict.fromkeys(gone, ())}
    if chinese:
        found = np.flatnonzero(unicode_sets.chinese()).tolist()
        targets |= {code: (32, code, 32) for code in found}
    if targets:
        steps.append(CodeMap(targets))
    if lower if accents is None else accents:
        marks = unicode_sets.marks() | unicode_sets.starter_marks()
        steps += [composed("NFD"), _without(marks)]
    if lower:
        steps.append(CodeMap(unicode_sets.lowered()))
    return chain(steps)


def _nmt(section: Any) -> Step:
    sections.entries(section)
    spaces = np.flatnonzero(unicode_categories.read_set(_NMT_SPACE)).tolist()
    gone = np.flatnonzero(unicode_categories.read_set(_NMT_GONE)).tolist()
    return CodeMap({**dict.fromkeys(gone, ()), **dict.fromkeys(spaces, (32,))})


def _precompiled(section: Any) -> Step:
    (charsmap,) = sections.entries(section, precompiled_charsmap=None)
    if not charsmap:
        return chain([])
    return Charsmap(charsmap)


def _prepend(section: Any) -> Step:
    (letters,) = sections.entries(section, prepend="")

    def step(state: State) -> State:
        where = pieces.first_codes(state) & (state.codes < ADDED)
        return pieces.inserted(state, where, letters)

    return step


def _strip(section: Any) -> Step:
    left, right = sections.entries(section, strip_left=True, strip_right=True)
    is_space = CodeTable(unicode_categories.members("space").astype(np.int32))

    def step(state: State) -> State:
        solid = is_space(state.codes) == 0
        remains = tf.ones_like(solid)
        number = pieces.piece_numbers(state)
        place = tf.range(tf.size(state.codes))
        count = tf.size(state.bounds) - 1
        if left:
            first = tf.where(solid, place, tf.size(place))
            first = tf.math.unsorted_segment_min(first, number, count)
            remains &= place >= tf.gather(first, number)
        if right:
            last = tf.where(solid, place, -1)
            last = tf.math.unsorted_segment_max(last, number, count)
            remains &= place <= tf.gather(last, number)
        return pieces.only(state, remains)

    return step


def replacement(pattern: Any, content: str) -> Step:
    """Returns the step that puts a text in the place of each match of a pattern."""
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    if isinstance(text, str) and len(text) == 1:
        return CodeMap({ord(text): tuple(map(ord, content))})
    find = Pattern(pattern)

    def step(state: State) -> State:
        found = find(state)
        counts = tf.where(found.ends, len(content), tf.where(found.inside, 0, 1))
        state, place, turn = pieces.repeated(state, counts)
        new = tf.gather(tf.constant([*map(ord, content), 0]), turn)
        is_new = tf.gather(found.ends, place)
        return state._replace(codes=tf.where(is_new, new, state.codes))

    return step


def _replace(section: Any) -> Step:
    pattern, content = sections.entries(section, pattern=None, content="")
    return replacement(pattern, content)


def _form(section: Any) -> Step:
    sections.entries(section)
    return composed(section["type"])


def chain(steps: list[Step]) -> Step:
    """Returns the step that takes all steps, one after the other."""

    def step(state: State) -> State:
        for one in steps:
            state = one(state)
        return state

    return step


_NORMALIZERS: dict[str, Callable[[Any], Step]] = {
    "BertNormalizer": _bert,
    "Lowercase": _lowercase,
    "NFC": _form,
    "NFD": _form,
    "NFKC": _form,
    "NFKD": _form,
    "Nmt": _nmt,
    "Precompiled": _precompiled,
    "Prepend": _prepend,
    "Replace": _replace,
    "Strip": _strip,
    "StripAccents": _without_accents,
}


def read(section: Any) -> Step:
    """Returns the normalizer of a `tokenizer.json`."""
    return chain(
        [
            sections.one_of(one, "normalizer", _NORMALIZERS)(one)
            for one in sections.steps(section, "normalizers")
        ]
    )
