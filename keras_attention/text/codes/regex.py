r"""Regular expressions of tokenizers over code points, computed by RE2 on letters.

RE2 has no lookahead and other classes of characters than Oniguruma, which Hugging
Face's `tokenizers` uses. So the code points are sorted into classes, which no part of
the expression tells apart; each class is one ASCII letter, and RE2 reads the letters. A
lookahead by one code point, such as `(?!\S)`, becomes a part of the class.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_attention.text.codes import state as pieces
from keras_attention.text.codes import unicode_categories
from keras_attention.text.codes.state import CodeTable, State
from keras_attention.text.json_files import refuse

_BEGIN, _END, _FIRST_LETTER, _NO_LETTER = 1, 2, 3, 0x7F
_NONE = r"[^\x00-\x7f]"
_ESCAPES = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11}
_FOLDED = {"s": 0x17F, "k": 0x212A}  # what else equals these, whatever the case
_MOST_SETS = 60


class Matches(NamedTuple):
    """Flags `[N]`: a match begins here, ends after here, and holds this code."""

    begins: tf.Tensor
    ends: tf.Tensor
    inside: tf.Tensor


class _Set(NamedTuple):
    """A set of code points, and what must hold of the next one, by condition."""

    members: np.ndarray
    ahead: Mapping[int, bool]


class Pattern:
    """A regular expression of a `tokenizer.json`, or a text to find.

    Args:
        pattern: `{"Regex": …}` or `{"String": …}`.
    """

    def __init__(self, pattern: Any) -> None:
        kind, text = next(iter(pattern.items())) if pattern else ("", None)
        if kind not in {"Regex", "String"} or len(pattern) != 1 or not text:
            refuse("a pattern", "a Regex or a String", pattern)
        reader = _Reader(text)
        tree = reader.whole() if kind == "Regex" else reader.plain()
        self._build(tree, reader.conditions, pattern)

    def _build(self, tree, conditions, pattern):
        sets = {one.tobytes(): one for one in [*conditions, *_sets(tree)]}
        if len(sets) > _MOST_SETS:
            refuse("a pattern", f"one of at most {_MOST_SETS} sets", pattern)
        signature = np.zeros(unicode_categories.NUM_CODE_POINTS, np.int64)
        for one in sets.values():
            signature = signature * 2 + one
        values, first, classes = _unique(signature)
        num = 1 << len(conditions)
        used = np.flatnonzero(values)
        if _FIRST_LETTER + len(used) * num > _NO_LETTER:
            refuse("a pattern", "one with fewer classes of characters", pattern)
        letters = np.full([len(values) + 1, num], _NO_LETTER)  # the last: added tokens
        letters[used] = _FIRST_LETTER + np.arange(len(used) * num).reshape(-1, num)
        self._classes = CodeTable(classes, len(values))
        ahead = [[*one[first], False] for one in conditions]

        def written(one: _Set) -> str:
            rows = letters[:-1][one.members[first]]  # [classes, conditions]
            columns = [
                all(bool(bits >> k & 1) == wanted for k, wanted in one.ahead.items())
                for bits in range(num)
            ]
            found = sorted(rows[:, columns].reshape(-1))
            return "".join(rf"\x{{{x:02x}}}" for x in found)

        self._expression = _written(tree, written)
        with tf.init_scope():
            self._letters = tf.constant(letters.reshape(-1), tf.int32)
            self._ahead = [tf.constant(np.array(one, np.int32)) for one in ahead]

    def __call__(self, state: State) -> Matches:
        """Returns the matches in the pieces of a state."""
        first = pieces.first_codes(state)
        classes = self._classes(state.codes)
        letters = classes * (1 << len(self._ahead))
        if self._ahead:
            following = tf.concat([classes[1:], [0]], 0)
            goes_on = tf.cast(~pieces.last_codes(state), tf.int32)
            for number, table in enumerate(self._ahead):
                letters += tf.gather(table, following) * goes_on * (1 << number)
        letters = tf.gather(self._letters, letters)
        # A zero separates the pieces: no expression matches it.
        apart = tf.stack([tf.where(first, 0, -1), letters], 1)
        apart = tf.reshape(apart, [-1])
        text = tf.strings.unicode_encode(tf.boolean_mask(apart, apart >= 0), "UTF-8")
        text = tf.strings.regex_replace(text, self._expression, "\x01\\0\x02")
        marks = tf.io.decode_raw(text, tf.uint8)
        marks = tf.pad(marks, [[1, 1]])
        place = tf.where(marks > _END)[:, 0]
        begins = tf.gather(marks, place - 1) == _BEGIN
        ends = tf.gather(marks, place + 1) == _END
        depth = tf.cast(begins, tf.int32) - tf.cast(
            tf.concat([[False], ends[:-1]], 0), tf.int32
        )
        return Matches(begins, ends, tf.cumsum(depth) > 0)


def _unique(signature):
    """Returns the different values, an example of each and the number of each code."""
    change = np.flatnonzero(np.diff(signature, prepend=-1))
    values, first, number = np.unique(
        signature[change], return_index=True, return_inverse=True
    )
    runs = np.diff(change, append=len(signature))
    return values, change[first], np.repeat(number, runs).astype(np.int32)


def _sets(tree):
    if isinstance(tree, _Set):
        return [tree.members]
    parts = tree[1] if tree[0] in "|." else [tree[1]]
    return [one for part in parts for one in _sets(part)]


def _written(tree, written):
    if isinstance(tree, _Set):
        return f"[{letters}]" if (letters := written(tree)) else _NONE
    kind, parts = tree[0], tree[1]
    if kind in "|.":
        texts = [_written(part, written) for part in parts]
        return f"(?:{'|'.join(texts) if kind == '|' else ''.join(texts)})"
    return f"(?:{_written(parts, written)}){kind}"


class _Reader:
    """Reads a regular expression as a tree of `_Set`, `("|" or ".", parts)`, repeats.

    A repeat is a pair of its quantifier and what is repeated.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ignores_case = False
        self.conditions: list[np.ndarray] = []

    def plain(self) -> Any:
        """Returns the tree of a text in which no character has a meaning."""
        return ".", [_Set(_only(ord(letter)), {}) for letter in self._text]

    def whole(self) -> Any:
        """Returns the tree of the expression."""
        tree = self._choices()
        if self._at < len(self._text):
            self._refuse("')' without '('")
        return tree

    def _refuse(self, what):
        refuse(f"{what} in a regular expression", "classes and groups", self._text)

    def _next(self, text=""):
        """Returns whether the text follows, and goes on behind it if it does."""
        follows = self._text.startswith(text, self._at)
        self._at += len(text) * follows
        return follows

    def _letter(self):
        if self._at == len(self._text):
            self._refuse("an end that is too early")
        self._at += 1
        return self._text[self._at - 1]

    def _choices(self):
        found = [self._sequence()]
        while self._next("|"):
            found.append(self._sequence())
        return found[0] if len(found) == 1 else ("|", found)

    def _sequence(self):
        found: list[Any] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            looks_ahead = self._next("(?!") or self._next("(?=")
            if looks_ahead:
                wanted = self._text[self._at - 1] == "="
                self._look_ahead(found, wanted)
                continue
            one = self._group() if self._next("(") else self._one()
            while quantifier := self._quantifier():
                one = (quantifier, one)
            found.append(one)
        return ".", found

    def _look_ahead(self, found, wanted):
        one = self._one()
        if not self._next(")") or not found:
            self._refuse("a lookahead of several characters")
        number = len(self.conditions)
        self.conditions.append(one.members)
        last = found.pop()
        if not isinstance(last, _Set):
            if last[0] != "+" or not isinstance(last[1], _Set):
                self._refuse("a lookahead after a group or a count")
            found.append(("*", last[1]))
            last = last[1]
        found.append(last._replace(ahead={**last.ahead, number: wanted}))

    def _group(self):
        before = self._ignores_case
        if self._next("?"):
            if self._next("i:"):
                self._ignores_case = True
            elif not self._next(":"):
                self._refuse("a special group")
        found = self._choices()
        if not self._next(")"):
            self._refuse("a group without an end")
        self._ignores_case = before
        return found

    def _quantifier(self):
        for sign in "*+?":
            if self._next(sign):
                break
        else:
            end = self._text.find("}", self._at)
            span = self._text[self._at : end + 1]
            if not self._text.startswith("{", self._at) or end < 0:
                return ""
            if not span[1:-1].replace(",", "").isdigit():
                self._refuse("a count")
            self._at = end + 1
            return f"{{0,{span[2:]}" if span.startswith("{,") else span
        if self._next("+"):
            self._refuse("a possessive quantifier")
        return sign + "?" * self._next("?")

    def _one(self):
        letter = self._letter()
        if letter == "[":
            return _Set(self._class(), {})
        if letter == ".":
            return _Set(~_only(10), {})
        if letter in "^$":
            self._refuse(f"the anchor {letter!r}")
        found = self._escape() if letter == "\\" else ord(letter)
        return _Set(self._folded(found), {})

    def _folded(self, found):
        found = _only(found) if isinstance(found, int) else found
        if self._ignores_case:
            found = found.copy()
            for small in map(chr, range(ord("a"), ord("z") + 1)):
                same = [ord(small), ord(small.upper()), _FOLDED.get(small, ord(small))]
                found[same] = found[same].any()
        return found

    def _class(self):
        is_other = self._next("^")
        found = np.zeros(unicode_categories.NUM_CODE_POINTS, bool)
        while not self._next("]"):
            letter = self._letter()
            if letter == "[" or self._next("&&"):
                self._refuse("a class in a class")
            one = self._escape() if letter == "\\" else ord(letter)
            is_range = self._text.startswith("-", self._at)
            if is_range and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._letter()
                last = self._escape() if last == "\\" else ord(last)
                if not isinstance(one, int) or not isinstance(last, int):
                    self._refuse("a range")
                found[one : last + 1] = True
            else:
                found |= _only(one) if isinstance(one, int) else one
        found = self._folded(found)
        return ~found if is_other else found

    def _escape(self):
        """Returns the code point or the set that the escape means."""
        letter = self._letter()
        kinds = {"s": "space", "d": "Nd"}
        if letter in "pP":
            end = self._text.find("}", self._at)
            name = self._text[self._at + 1 : end]
            is_other = name.startswith("^") != (letter == "P")
            try:
                found = unicode_categories.members(name.removeprefix("^"))
            except KeyError:
                self._refuse(f"the class {name!r:.40}")
            self._at = end + 1
        elif letter.lower() == "w":
            found, is_other = unicode_categories.words("onig"), letter == "W"
        elif letter.lower() in kinds:
            found = unicode_categories.members(kinds[letter.lower()])
            is_other = letter.isupper()
        elif letter in "xu":
            return self._number(letter)
        elif letter.isalnum() and letter not in _ESCAPES:
            self._refuse(f"the escape {letter!r}")
        else:
            return _ESCAPES.get(letter, ord(letter))
        return ~found if is_other else found

    def _number(self, letter):
        if self._next("{"):
            end = self._text.find("}", self._at)
            digits, self._at = self._text[self._at : end], end + 1
        else:
            size = {"x": 2, "u": 4}[letter]
            digits = self._text[self._at : self._at + size]
            self._at += size
        try:
            return int(digits, 16)
        except ValueError:
            return self._refuse("a number of a character")


def _only(code):
    found = np.zeros(unicode_categories.NUM_CODE_POINTS, bool)
    found[code] = True
    return found
