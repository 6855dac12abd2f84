"""The steps of a `tokenizer.json` as TensorFlow operations: texts to ids and back."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_attention.text import arguments, framing
from keras_attention.text.codes import state as pieces
from keras_attention.text.codes import unicode_categories
from keras_attention.text.codes.state import ADDED
from keras_attention.text.json_files import refuse
from keras_attention.text.patterns import byte_characters
from keras_attention.text.pipeline import decoders, models, normalizers, splitters
from keras_attention.text.pipeline import framing as processors
from keras_attention.text.pipeline.added import AddedTokens
from keras_attention.text.pipeline.tokens import Words

_SECTIONS = (
    "version",
    "truncation",  # this and padding are defaults of Hugging Face's call
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
)
_MOST_GAPS = 1000
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class Pipeline:
    """What a `tokenizer.json` does, without the special tokens around texts.

    Args:
        specification: The content of the file.

    Attributes:
        vocabulary: The tokens; the index of each is its id.
        ids: `{token: id}`.
        template: The special tokens around texts.
        special: The added tokens that are special.
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        for name in specification:
            if name not in _SECTIONS:
                refuse(f"the section {name!r:.100}", ", ".join(_SECTIONS), name)
        with tf.init_scope():  # its tables are constants of the program
            self._model, ids = models.read(specification.get("model"))
        self._added = _added_tokens(specification.get("added_tokens"))
        for token in self._added:
            if ids.setdefault(token["content"], token["id"]) != token["id"]:
                refuse("the id of an added token", "one id for each token", token)
        self.vocabulary = _by_id(ids)
        self.ids = arguments.token_ids(self.vocabulary)
        self.special = {t["content"] for t in self._added if t["special"]}
        self._framing = processors.read(specification.get("post_processor"), self.ids)
        self.template = self._framing.template
        with tf.init_scope():
            self._build(specification)

    def _build(self, specification: Mapping[str, Any]) -> None:
        self._normalize = normalizers.read(specification.get("normalizer"))
        self._pre_tokenize = splitters.read(specification.get("pre_tokenizer"))
        self._find = []
        shown = {}  # the crate shows a normalized token as it is found
        for normalized in (False, True):
            chosen = [
                n for n, t in enumerate(self._added) if t["normalized"] is normalized
            ]
            texts = [self._added[number]["content"] for number in chosen]
            if normalized and texts:  # they are found in text that is normalized too
                state = self._normalize(pieces.decoded(tf.constant(texts)))
                texts = [x.decode() for x in pieces.strings(state).numpy()]
                shown = {
                    self._added[number]["content"]: text
                    for number, text in zip(chosen, texts, strict=True)
                }
            tokens = {
                text: (number, {**self._added[number], "text": text})
                for text, number in zip(texts, chosen, strict=True)
                if text
            }
            numbers = [number for number, _ in tokens.values()]
            found = (
                AddedTokens([t for _, t in tokens.values()], numbers)
                if tokens
                else None
            )
            self._find.append(found)
        words = [shown.get(token, token) for token in self.vocabulary]
        if isinstance(pairs := specification["model"]["vocab"], list):
            words[: len(pairs)] = [token for token, _ in pairs]  # some are there twice
        self._decode = decoders.Decoder(specification.get("decoder"), words)
        ids = [self.ids[token["content"]] for token in self._added]
        self._added_ids = tf.constant([*ids, 0], tf.int32)
        spaces = unicode_categories.members("space")
        self._is_space = pieces.CodeTable(spaces.astype("int32"))
        space = "".join(map(chr, spaces.nonzero()[0])) + byte_characters()[32]
        self._leading = [len(t) - len(t.lstrip(space)) for t in self.vocabulary]
        self._trailing = [len(t) - len(t.rstrip(space)) for t in self.vocabulary]

    def _split(self, state: pieces.State) -> pieces.State:
        """Returns texts as words and added tokens."""
        for find, step in zip(
            self._find, (self._normalize, self._pre_tokenize), strict=True
        ):
            state = step(find(state) if find is not None else state)
        return state

    def __call__(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        """Returns the tokens of each text `[B]`, not truncated."""
        whole = pieces.decoded(texts)
        state = self._split(whole)
        bounds = tf.cast(state.bounds, tf.int32)
        first = tf.gather(tf.concat([state.codes, [0]], 0), bounds[:-1])
        is_added = (first >= ADDED) & (bounds[1:] > bounds[:-1])  # [P]
        unique, number = tf.unique(pieces.strings(state))
        decoded: Any = tf.strings.unicode_decode(unique, "UTF-8")
        splits = tf.cast(decoded.row_splits, tf.int32)
        tokens = self._model(Words(unique, decoded.values, splits))
        begins = tf.gather(tokens.splits[:-1], number)
        lengths = tf.gather(tokens.splits[1:], number) - begins
        lengths = tf.where(is_added, 1, lengths)
        index = tf.ragged.range(begins, begins + lengths)  # [P, None]
        piece = tf.cast(index.value_rowids(), tf.int32)
        is_added = tf.gather(is_added, piece)  # [T]
        place = tf.where(is_added, tf.size(tokens.ids), index.values)
        ids = tf.gather(tf.concat([tokens.ids, [0]], 0), place)
        code = tf.where(is_added, tf.gather(first, piece) - ADDED, 0)
        ids = tf.where(is_added, tf.gather(self._added_ids, code), ids)
        row_splits = tf.gather(index.row_splits, state.rows)
        if not with_offsets:
            return framing.Pieces(ids, row_splits, {})
        begin = tf.gather(bounds, piece)
        word = tf.gather(splits, tf.gather(number, piece))
        ends = []
        for places, values in ((tokens.first, state.starts), (tokens.last, state.ends)):
            at = tf.gather(tf.concat([places, [0]], 0), place) - word
            at = tf.where(is_added, 0, at) + begin
            ends.append(tf.gather(values, at))
        starts, ends = ends
        if self._framing.trims:
            spans = starts, ends, row_splits
            spaces = self._spaces(whole, ids, spans, is_added)
            starts, ends = self._trim(spans, *spaces)
        return framing.Pieces(ids, row_splits, {"starts": starts, "ends": ends})

    def _spaces(self, whole, ids, spans, is_added):
        """Returns the numbers of spaces at the begin and end of each token, `[T]`."""
        leading = tf.gather(tf.constant(self._leading), ids)
        trailing = tf.gather(tf.constant(self._trailing), ids)
        if not any(token["lstrip"] or token["rstrip"] for token in self._added):
            return leading, trailing
        # An added token has the white space that it takes, which is only in the text.
        starts, ends, splits = spans
        row = tf.searchsorted(splits, tf.range(tf.size(ids, splits.dtype)), "right")
        base = tf.gather(tf.cast(whole.bounds, tf.int32), row - 1)
        solid = tf.cast(tf.where(self._is_space(whole.codes) == 0)[:, 0], tf.int32)
        solid = tf.concat([[-1], solid, [tf.size(whole.codes)]], 0)
        after = tf.gather(solid, tf.searchsorted(solid, base + starts))
        before = tf.gather(solid, tf.searchsorted(solid, base + ends) - 1)
        size = ends - starts
        left = tf.minimum(after - base - starts, size)
        right = tf.minimum(base + ends - 1 - before, size)
        return (
            tf.where(is_added, left, leading),
            tf.where(is_added, right, trailing),
        )

    def _trim(self, spans: Any, leading: Any, trailing: Any) -> tuple[Any, Any]:
        """Trims offsets exactly as the `ByteLevel` post-processor does."""
        starts, ends, splits = spans
        if self._framing.adds_space:
            ones = tf.ones_like(splits, tf.int32)
            size = tf.size(starts, tf.int64) + 1
            is_first = tf.scatter_nd(tf.cast(splits, tf.int64)[:, None], ones, [size])
            is_first = (is_first[:-1] > 0) | (starts == 0)
            leading = tf.where(is_first & (leading == 1), 0, leading)
        starts = tf.minimum(starts + leading, ends)
        ends = tf.where(ends >= trailing, tf.maximum(ends - trailing, starts), ends)
        return starts, ends

    def detokenize(self, ids: Any, skip_special_tokens: bool) -> tf.Tensor:
        """Returns the texts `[B]` of ids `[B, T]`."""
        rows = arguments.id_rows(ids, len(self.vocabulary))
        if skip_special_tokens:
            is_plain = [token not in self.special for token in self.vocabulary]
            rows = tf.ragged.boolean_mask(rows, tf.gather(tf.constant(is_plain), rows))
        return self._decode(rows)


def _added_tokens(tokens: Any) -> list[dict[str, Any]]:
    """Returns the added tokens with all their settings."""
    found = []
    for token in tokens or []:
        if not isinstance(token, Mapping) or not isinstance(token.get("content"), str):
            refuse("an added token", "an object with its content", token)
        if unknown := set(token) - {"id", "content", *_FLAGS}:
            refuse(
                "an added token", f"id, content, {', '.join(_FLAGS)}", sorted(unknown)
            )
        flags = {name: token.get(name, False) for name in _FLAGS}
        if any(type(flag) is not bool for flag in flags.values()):
            refuse("the settings of an added token", "true and false", token)
        found.append({**token, **flags})
    return found


def _by_id(ids: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the tokens by their ids; an id without a token has a name of its own."""
    if any(type(number) is not int or number < 0 for number in ids.values()):
        refuse("the ids of the vocabulary", "integers from 0 on", ids)
    tokens = {number: token for token, number in ids.items()}
    size = 1 + max(tokens, default=-1)
    if len(tokens) < len(ids) or size > 2 * len(ids) + _MOST_GAPS:
        refuse("the ids of the vocabulary", "an own id for each token", len(ids))
    return tuple(tokens.get(number, f"<unused id {number}>") for number in range(size))
