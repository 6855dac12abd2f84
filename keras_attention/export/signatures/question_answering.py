"""The signature that answers questions: from two texts to a span of the second.

It does in the graph what `QuestionAnswerer.answer` does in Python: it splits texts into
words, cuts a context that is too long into windows that overlap, and returns the best
span of all windows.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_attention.export.cases.grid import TEXTS
from keras_attention.export.signatures.signature import Signature, Steps, TensorInfo
from keras_attention.export.signatures.text_input import TEXT
from keras_attention.tasks.question_answerer import MAX_ANSWER_TOKENS, QuestionAnswerer
from keras_attention.tasks.words import frame_of, is_punctuation, room_for
from keras_attention.text.framing import Pieces

SPACE, PUNCTUATION, OTHER = range(3)
_OUT = {
    "text": "string",
    "start": "int32",
    "end": "int32",
    "score": "float32",
    "no_answer_margin": "float32",
}


def answer_signature(model: QuestionAnswerer, ids: Signature) -> Signature:
    """Returns the signature `answer`, from `question` and `context` to a span.

    The outputs are `text`, `start`, `end`, `score` and `no_answer_margin`, `[B]` each.
    `start` and `end` count characters of the context, and are -1 if it has no word;
    `QuestionAnswerer.answer` compares `no_answer_margin` with its
    `no_answer_threshold`.

    Args:
        model: The model; it must have a tokenizer.
        ids: The signature from ids to logits, which is run on each window.
    """
    spans = _Spans(model, tuple(ids.inputs))
    return Signature(
        "answer",
        Steps(spans.windows, ids.function, spans.best, ids.inputs, ids.outputs),
        {"question": TEXT, "context": TEXT},
        {name: TensorInfo(dtype, ("batch",)) for name, dtype in _OUT.items()},
        examples=_examples,
    )


def _examples() -> Iterator[tuple[str, dict, None]]:
    for name, contexts in TEXTS.items():
        questions = ["Who? ", "", "how is it"][: len(contexts)]
        yield name, {"question": questions, "context": contexts}, None


class _Words(NamedTuple):
    """The tokens of a batch of texts, flat, with the places of their words.

    Attributes:
        ids: The tokens of all texts, `[N]`.
        splits: The index in `ids` at which each text begins, `[B + 1]`.
        starts: Where the word of each token begins in its text, in characters, `[N]`.
        ends: Where the word of each token ends, `[N]`.
        characters: The characters of the texts, ragged `[B, None]`.
    """

    ids: Any
    splits: Any
    starts: Any
    ends: Any
    characters: Any


class _Windows(NamedTuple):
    """Which tokens of its context each window has.

    Attributes:
        splits: The index of each question's first window, `[B + 1]`.
        first: The first token of the context that is in the window, `[W]`.
        count: The number of tokens of the context in the window, `[W]`.
        offset: The place of the first of them in the window's row of ids, `[W]`.
    """

    splits: Any
    first: Any
    count: Any
    offset: Any


class _Spans:
    """The steps before and after the model: texts to ids, and logits to spans."""

    def __init__(self, model: QuestionAnswerer, inputs: tuple[str, ...]):
        self.tokenizer, self.inputs = model.tokenizer, inputs
        self.overlap, frame = model.overlap, frame_of(model.tokenizer)
        # The special tokens before the context.
        self.before = len(frame.before) + len(frame.between)
        self.special = self.before + len(frame.after)
        self.longest = room_for(model, self.special) + self.special

    def windows(self, question, context):
        """Returns rows of ids, one per window, and what `best` needs to know."""
        question_words, context_words = self._words(question), self._words(context)
        sizes = _sizes(context_words.splits)
        room = self.longest - self.special - _sizes(question_words.splits)  # [B]
        room = _checked(room, self.longest)
        shared = tf.minimum(tf.constant(self.overlap, tf.int64), room - 1)
        firsts = tf.ragged.range(
            tf.zeros_like(sizes), tf.maximum(sizes - shared, 1), room - shared
        )  # [B, None]
        owner, first = firsts.value_rowids(), firsts.values  # [W]
        count = tf.minimum(tf.gather(room, owner), tf.gather(sizes, owner) - first)
        begin = tf.gather(context_words.splits, owner) + first
        contexts = tf.ragged.range(begin, begin + count)
        splits = question_words.splits
        questions = tf.gather(tf.ragged.range(splits[:-1], splits[1:]), owner)
        rows = self.tokenizer.frame_pairs(
            _pieces(question_words.ids, questions),
            _pieces(context_words.ids, contexts),
        )
        offset = self.before + questions.row_lengths()
        windows = _Windows(firsts.row_splits, first, count, offset)
        fed = {name: rows[name] for name in self.inputs if name in rows}
        return fed, (context_words, windows)

    def best(self, answers, given):
        """Returns the best span of all windows of each context."""
        words, windows = given
        logits = tf.cast(answers["logits"], tf.float32)  # [W, 2, T]
        first, last = _context_logits(logits, windows)  # [W, R]
        value, start, end = _best_of_windows(first, last)  # [W]
        values = _by_question(value, windows.splits)  # [B, most windows]
        chosen = windows.splits[:-1] + tf.argmax(values, 1)  # [B]
        best = tf.reduce_max(values, 1)
        is_found = _sizes(words.splits) > 0
        token = words.splits[:-1] + tf.gather(windows.first, chosen)
        start = _gathered(words.starts, token + tf.gather(start, chosen), is_found)
        end = _gathered(words.ends, token + tf.gather(end, chosen), is_found)
        ends = [tf.reduce_logsumexp(one, 1) for one in (first, last)]
        total = sum(
            tf.reduce_logsumexp(_by_question(one, windows.splits), 1) for one in ends
        )
        none = -_by_question(-(logits[:, 0, 0] + logits[:, 1, 0]), windows.splits)
        return {
            "text": _substring(words.characters, start, end),
            "start": tf.cast(start, tf.int32),
            "end": tf.cast(end, tf.int32),
            "score": tf.where(is_found, tf.exp(best - total), 0.0),
            "no_answer_margin": tf.where(is_found, tf.reduce_min(none, 1) - best, 0.0),
        }

    def _words(self, texts) -> _Words:
        """Splits texts into words and tokens: `words_of_texts` in the graph."""
        characters = tf.strings.unicode_decode(texts, "UTF-8")  # [B, None]
        begins = tf.cast(characters.row_splits, tf.int64)
        owner = characters.value_rowids()
        starts, ends, after_space = word_places(characters.values, owner)
        # A word is tokenized with the space before it: some tokens contain the space.
        parts = tf.ragged.range(starts - after_space, ends)
        parts = parts.with_values(tf.gather(characters.values, parts.values))
        pieces = self.tokenizer.tokenize(tf.strings.unicode_encode(parts, "UTF-8"))
        word = pieces.value_rowids()
        of_text = tf.gather(owner, starts)  # of each word
        counts = tf.math.bincount(
            tf.cast(tf.gather(of_text, word), tf.int32),
            minlength=tf.cast(characters.nrows(), tf.int32),
            dtype=tf.int64,
        )
        text_begins = tf.gather(begins, of_text)
        return _Words(
            pieces.values,
            tf.concat([[0], tf.cumsum(counts)], 0),
            tf.gather(starts - text_begins, word),
            tf.gather(ends - text_begins, word),
            characters,
        )


@functools.cache
def _kinds_of_characters() -> tuple[np.ndarray, np.ndarray]:
    """Returns where runs of code points of one kind begin, and their kinds."""
    kinds = [
        PUNCTUATION if is_punctuation(letter) else SPACE if letter.isspace() else OTHER
        for letter in map(chr, range(0x110000))
    ]
    (changes,) = np.nonzero(np.diff(kinds, prepend=-1))
    return changes.astype("int32"), np.take(kinds, changes).astype("int32")


def word_places(codes: Any, owner: Any) -> tuple[Any, Any, Any]:
    """Finds the words in the characters of a batch of texts.

    Args:
        codes: The code points of all texts, one after the other, `[N]`.
        owner: The index of the text of each, `[N]`.

    Returns:
        `(starts, ends, after_space)`, one entry per word: its first character, the
        character after its last one, and 1 if a space comes before it, else 0.
    """
    runs, kinds = _kinds_of_characters()
    run = tf.searchsorted(tf.constant(runs), codes, side="right") - 1
    kind = tf.gather(tf.constant(kinds), run)
    same_text = tf.concat([[False], owner[1:] == owner[:-1]], 0)[: tf.size(owner)]
    inside = kind == OTHER
    joined = inside & same_text & _shifted(inside)  # to the character before
    is_start = (kind != SPACE) & ~joined
    is_end = (kind != SPACE) & ~tf.concat([joined[1:], [False]], 0)[: tf.size(owner)]
    after_space = same_text & _shifted(kind == SPACE)
    starts = tf.where(is_start)[:, 0]
    ends = tf.where(is_end)[:, 0] + 1
    return starts, ends, tf.cast(tf.gather(after_space, starts), tf.int64)


def _shifted(flags):
    return tf.concat([[False], flags[:-1]], 0)[: tf.size(flags)]


def _pieces(ids, places):
    """The ids at ragged places `[W, None]`."""
    return Pieces(tf.gather(ids, places.values), places.row_splits, {})


def _sizes(splits):
    return splits[1:] - splits[:-1]


def _checked(room, longest: int):
    enough = tf.debugging.Assert(
        tf.reduce_all(room > 0),
        [
            "There is no room for the context after the question. Shorten the "
            f"question: a row has {longest} tokens. Received a question that leaves:",
            tf.reduce_min(room),
        ],
    )
    with tf.control_dependencies([] if enough is None else [enough]):
        return tf.identity(room)


def _context_logits(logits, windows: _Windows):
    """The logits of the contexts' tokens `[W, R]`; -inf after a window's last one."""
    width = tf.maximum(tf.reduce_max(windows.count), 1)
    places = tf.range(width)[None]  # [1, R]
    index = tf.minimum(
        windows.offset[:, None] + places, tf.shape(logits, tf.int64)[2] - 1
    )
    own = tf.gather(logits, index, axis=2, batch_dims=1)  # [W, 2, R]
    own = tf.where((places < windows.count[:, None])[:, None], own, -np.inf)
    return own[:, 0], own[:, 1]


def _best_of_windows(first, last):
    """The largest sum of a first and a last token, and their places; `[W]` each."""
    longest = MAX_ANSWER_TOKENS
    padded = tf.pad(last, [[0, 0], [0, longest - 1]], constant_values=-np.inf)
    ahead = tf.range(tf.shape(first)[1])[:, None] + tf.range(longest)[None]
    sums = first[:, :, None] + tf.gather(padded, ahead, axis=1)  # [W, R, longest]
    sums = tf.reshape(sums, [tf.shape(first)[0], tf.shape(first)[1] * longest])
    place = tf.argmax(sums, 1)
    start = place // longest
    return tf.reduce_max(sums, 1), start, start + place % longest


def _by_question(values, splits):
    """`[W]` as `[B, most windows]`, -inf where a question has fewer."""
    ragged = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
    # One column more: a batch without windows has no largest value otherwise.
    return tf.pad(ragged.to_tensor(-np.inf), [[0, 0], [0, 1]], constant_values=-np.inf)


def _gathered(values, index, is_found):
    """The values at the index, -1 where nothing was found."""
    index = tf.where(is_found, index, tf.size(values, tf.int64))
    return tf.gather(tf.concat([values, [-1]], 0), index)


def _substring(characters, start, end):
    begins = tf.cast(characters.row_splits[:-1], tf.int64)
    places = tf.ragged.range(begins + tf.maximum(start, 0), begins + tf.maximum(end, 0))
    cut = places.with_values(tf.gather(characters.values, places.values))
    return tf.strings.unicode_encode(cut, "UTF-8")
