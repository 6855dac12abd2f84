"""WordPiece in the graph: raw strings in, BERT's token ids out."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from keras_attention.text import arguments, hugging_face
from keras_attention.text.bert_words import BertWords

# The files of the tensorflow_text wheel that register the operations used here. Any
# program that opens a SavedModel with this tokenizer without importing
# tensorflow_text (C: TF_LoadLibrary, TF Serving: a custom build) loads these first.
OP_LIBRARIES = ("_fast_wordpiece_tokenizer.so",)

_MOST_BYTES_PER_WORD = 2**31 - 1  # words are measured in characters, before


@keras.saving.register_keras_serializable("keras_attention")
class WordPieceTokenizer:
    """BERT's tokenizer as TensorFlow operations, equal to Hugging Face's `tokenizers`.

    Use it in front of `BertEncoder` and in exported models that take text. There is
    no Python in it: make it an attribute of the exported `tf.Module`, and the
    SavedModel holds vocabulary and tables, and can be opened in TF Serving or from C
    (see `OP_LIBRARIES`). Reference: Schuster & Nakajima, 2012; [Devlin et al.,
    2018](https://arxiv.org/abs/1810.04805).

    Bytes that are not UTF-8 count as U+FFFD, which `clean_text` removes.

    Args:
        vocabulary: list of tokens, the place is the id; or the path of a `vocab.txt`.
        lowercase: bool. Lower-case each code point, regardless of its neighbours.
        strip_accents: bool. Remove accents. `None` does as `lowercase` does.
        handle_chinese_chars: bool. Make each Chinese character a word.
        clean_text: bool. Remove control characters.
        max_length: int or `None`. Most tokens in a row, special tokens included; a
            longer text is cut, of a pair the longer text first. `None`: no limit.
        continuing_subword_prefix: str. Marks a token that continues a word.
        max_input_chars_per_word: int. A longer word becomes the unknown token.
        special_tokens: dict. Other names for `"unk"`, `"cls"`, `"sep"`, `"pad"` and
            `"mask"`; a `"mask"` of `None` says that there is none.
        added_tokens: list of tokens that are found in the raw text, inside words too,
            before anything is normalised: Hugging Face's added tokens with `special:
            true, normalized: false`. By default the special tokens, so that the text
            "[SEP]" gives `sep_token_id`; `[]` reads text from strangers literally.

    Call arguments:
        texts: strings `[B]`, a tensor or a list.
        texts_pair: strings `[B]`, the second text of each row, or `None`.

    Returns:
        dict of `token_ids` (int32), `segment_ids` (int32, 1 for the second text and
        its separator) and `padding_mask` (bool, True = a token), each `[B, T]`, as
        long as the longest row: `[CLS] text [SEP]` or `[CLS] text [SEP] pair [SEP]`.

    Example:
    >>> tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s"]
    >>> tokenizer = WordPieceTokenizer(tokens)
    >>> tokenizer(["The Cats", "THE"])["token_ids"].numpy()
    array([[2, 5, 6, 7, 3],
           [2, 5, 3, 0, 0]], dtype=int32)
    """

    def __init__(
        self,
        vocabulary: Sequence[str] | hugging_face.Path,
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        handle_chinese_chars: bool = True,
        clean_text: bool = True,
        max_length: int | None = 512,
        continuing_subword_prefix: str = "##",
        max_input_chars_per_word: int = 100,
        special_tokens: Mapping[str, str | None] | None = None,
        added_tokens: Sequence[str] | None = None,
    ) -> None:
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = hugging_face.read_vocabulary(vocabulary)
        self._vocabulary = tuple(vocabulary)
        self._ids = arguments.token_ids(self._vocabulary)
        self._special_tokens: dict[str, Any] = arguments.special_tokens(
            special_tokens or {}, self._ids
        )
        if added_tokens is None:
            added_tokens = [t for t in self._special_tokens.values() if t is not None]
        arguments.check_lengths(max_length, max_input_chars_per_word)
        self._config = {
            "lowercase": lowercase,
            "strip_accents": strip_accents,
            "handle_chinese_chars": handle_chinese_chars,
            "clean_text": clean_text,
            "max_length": max_length,
            "continuing_subword_prefix": continuing_subword_prefix,
            "max_input_chars_per_word": max_input_chars_per_word,
            "special_tokens": dict(self._special_tokens),
            "added_tokens": list(added_tokens),
        }
        self._words = BertWords(
            lowercase=lowercase,
            strip_accents=lowercase if strip_accents is None else strip_accents,
            handle_chinese_chars=handle_chinese_chars,
            clean_text=clean_text,
            added_tokens=arguments.added_tokens(added_tokens, self._ids),
        )
        self._wordpiece = _fast_wordpiece(
            self._vocabulary, continuing_subword_prefix, self._special_tokens["unk"]
        )

    @classmethod
    def from_vocabulary_file(cls, path: hugging_face.Path, **options: Any) -> Self:
        """From a `vocab.txt`; `options` are the constructor's."""
        return cls(hugging_face.read_vocabulary(path), **options)

    @classmethod
    def from_tokenizer_json(
        cls,
        path: hugging_face.Path,
        *,
        max_length: int | None = 512,
        special_tokens: Mapping[str, str | None] | None = None,
    ) -> Self:
        """From a `tokenizer.json`; what cannot be done equally is refused by name.

        Args:
            path: of the file.
            max_length: as in the constructor. The file's own "truncation" and
                "padding" are defaults of Hugging Face's call and are not followed.
            special_tokens: as in the constructor, for the names that the file does
                not give: `"mask"`, and `"pad"` if it has no "padding".
        """
        options = hugging_face.read_tokenizer_json(path)
        options["special_tokens"].update(special_tokens or {})
        return cls(**options, max_length=max_length)

    @classmethod
    def from_folder(
        cls,
        folder: hugging_face.Path,
        *,
        max_length: int | Literal["from_config"] | None = "from_config",
    ) -> Self:
        """From a model folder: its `tokenizer.json`, else its `vocab.txt`.

        Args:
            folder: holds one of the two, and mostly a `tokenizer_config.json`.
            max_length: as in the constructor. By default `model_max_length` of
                `tokenizer_config.json`; no limit if it has none, or one above 10⁶.
        """
        options = hugging_face.read_folder(folder)
        if max_length != "from_config":
            options["max_length"] = max_length
        return cls(**options)

    def __call__(self, texts: Any, texts_pair: Any = None) -> dict[str, tf.Tensor]:
        given = [arguments.strings(texts, "texts")]
        if texts_pair is not None:
            texts_pair = arguments.strings(texts_pair, "texts_pair")
            given.append(arguments.same_batch(given[0], texts_pair))
        if not tf.executing_eagerly():
            return self._encode(*given)
        return self._compiled[len(given) - 1](*given)

    @functools.cached_property
    def _compiled(self) -> Any:
        """The call as one graph: a hundred operations one by one take 30 ms."""
        strings = tf.TensorSpec([None], tf.string)
        return [
            tf.function(self._encode, [strings] * number, autograph=False)
            for number in (1, 2)
        ]

    def _encode(
        self, texts: tf.Tensor, texts_pair: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        first = self.tokenize(texts)
        separator = tf.fill([tf.size(texts), 1], self.sep_token_id)
        classifier = tf.fill([tf.size(texts), 1], self.cls_token_id)
        if texts_pair is None:
            first = _cut(first, self._room(2))
            rows = tf.concat([classifier, first, separator], 1)
            second_starts = rows.row_lengths()
        else:
            second = self.tokenize(texts_pair)
            first, second = _cut_pair(first, second, self._room(3))
            rows = tf.concat([classifier, first, separator, second, separator], 1)
            second_starts = first.row_lengths() + 2
        token_ids = rows.to_tensor(self.pad_token_id)  # [B, T]
        place = tf.range(tf.shape(token_ids, tf.int64)[1])[None]  # [1, T]
        padding_mask = place < rows.row_lengths()[:, None]  # [B, T]
        in_second = padding_mask & (place >= second_starts[:, None])
        return {
            "token_ids": token_ids,
            "segment_ids": tf.cast(in_second, tf.int32),
            "padding_mask": padding_mask,
        }

    def tokenize(self, texts: Any) -> tf.RaggedTensor:
        """Token ids `[B, None]` of each text (int32), neither cut nor framed."""
        words = self._words(arguments.strings(texts, "texts"))
        strings = tf.where(
            words.num_characters > self._config["max_input_chars_per_word"],
            self._special_tokens["unk"],
            words.strings,
        )
        pieces = self._wordpiece.tokenize(strings)  # [W, None]
        row_splits = tf.gather(pieces.row_splits, words.row_splits)
        return tf.RaggedTensor.from_row_splits(
            pieces.values, row_splits, validate=False
        )

    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Texts `[B]` of ids `[B, T]`: tokens joined by spaces, parts of words without.

        Equal to Hugging Face's `decode_batch` with the WordPiece decoder and
        `cleanup=False`: case, accents and spaces around punctuation do not come back.

        Args:
            ids: integers `[B, T]`, dense or ragged.
            skip_special_tokens: bool. Leave out the special and the added tokens.
        """
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.convert_to_tensor(ids)
            if ids.shape.rank != 2 or not ids.dtype.is_integer:
                raise ValueError(
                    "detokenize takes integer ids [B, T], one row a text. Put a "
                    "single row into a list. "
                    f"Received: shape={ids.shape}, dtype={ids.dtype.name}"
                )
            ids = tf.RaggedTensor.from_tensor(ids)
        tokens = tf.constant(self._vocabulary)
        if skip_special_tokens:
            special = {*self._special_tokens.values(), *self._config["added_tokens"]}
            kept = tf.constant([token not in special for token in self._vocabulary])
            ids = tf.ragged.boolean_mask(ids, tf.gather(kept, ids))
        prefix = self._config["continuing_subword_prefix"]
        glued = tf.constant(
            [
                token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
                for token in self._vocabulary
            ]
        )
        first = tf.strings.reduce_join(tf.gather(tokens, ids[:, :1]), axis=1)
        return first + tf.strings.reduce_join(tf.gather(glued, ids[:, 1:]), axis=1)

    def tokens(self, texts: Any, texts_pair: Any = None) -> list[list[str]]:
        """The tokens of each row as Python strings: labels for a plot.

        They stand where a call puts their ids, special tokens included, without the
        padding. Not for graphs.
        """
        batch = self(texts, texts_pair)
        rows = tf.ragged.boolean_mask(batch["token_ids"], batch["padding_mask"])
        return [[self._vocabulary[i] for i in row] for row in rows.to_list()]

    def id_to_token(self, token_id: int) -> str:
        """The token with this id."""
        if not 0 <= token_id < self.vocabulary_size:
            raise ValueError(
                f"Token ids go from 0 to {self.vocabulary_size - 1}. Ask for one of "
                f"them. Received: token_id={token_id!r}"
            )
        return self._vocabulary[token_id]

    def token_to_id(self, token: str) -> int:
        """The id of this token of the vocabulary."""
        if token not in self._ids:
            raise ValueError(
                "The vocabulary has no such token. A text is split by tokenize(); "
                f"here give one token. Received: token={token!r}"
            )
        return self._ids[token]

    @property
    def vocabulary(self) -> list[str]:
        """The tokens; the place of each is its id."""
        return list(self._vocabulary)

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return len(self._vocabulary)

    @property
    def max_length(self) -> int | None:
        """Most tokens in a row, special tokens included; `None`: no limit."""
        return self._config["max_length"]

    @property
    def unk_token_id(self) -> int:
        """The id of the token for words that cannot be split."""
        return self._ids[self._special_tokens["unk"]]

    @property
    def cls_token_id(self) -> int:
        """The id of the token at the start of each row."""
        return self._ids[self._special_tokens["cls"]]

    @property
    def sep_token_id(self) -> int:
        """The id of the token after each text."""
        return self._ids[self._special_tokens["sep"]]

    @property
    def pad_token_id(self) -> int:
        """The id that fills the shorter rows of a batch."""
        return self._ids[self._special_tokens["pad"]]

    @property
    def mask_token_id(self) -> int | None:
        """The id of the token to be predicted; `None` if there is none."""
        return self._ids.get(self._special_tokens["mask"])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with the vocabulary as a list."""
        return {"vocabulary": self.vocabulary, **self._config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The tokenizer that `get_config` was called on."""
        return cls(**config)

    def _room(self, num_special: int) -> int | None:
        return None if self.max_length is None else self.max_length - num_special


def _cut(ids: tf.RaggedTensor, num_tokens: tf.Tensor | int | None) -> tf.RaggedTensor:
    """The first `num_tokens` of each row; `None`: all."""
    if num_tokens is None:
        return ids
    starts = ids.row_starts()
    lengths = tf.minimum(ids.row_lengths(), tf.cast(num_tokens, tf.int64))
    places = tf.ragged.range(starts, starts + lengths)
    return places.with_values(tf.gather(ids.values, places.values))


def _cut_pair(
    first: tf.RaggedTensor, second: tf.RaggedTensor, room: int | None
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Cut the longer text to the shorter one's length, then both: `LongestFirst`."""
    if room is None:
        return first, second
    lengths = first.row_lengths(), second.row_lengths()
    shorter, longer = tf.minimum(*lengths), tf.maximum(*lengths)
    longer = tf.minimum(longer, tf.maximum(shorter, room - shorter))
    is_too_long = shorter + longer > room
    half = tf.fill(tf.shape(shorter), tf.constant(room // 2, tf.int64))
    shorter = tf.where(is_too_long, half, shorter)
    longer = tf.where(is_too_long, room - half, longer)
    is_first_longer = lengths[0] > lengths[1]
    return (
        _cut(first, tf.where(is_first_longer, longer, shorter)),
        _cut(second, tf.where(is_first_longer, shorter, longer)),
    )


def _fast_wordpiece(vocabulary: Sequence[str], prefix: str, unknown: str) -> Any:
    """The operation that splits words, with the vocabulary inside."""
    try:
        import tensorflow_text
    except ImportError as error:
        raise ImportError(
            "Tokenizing in the graph needs tensorflow_text. Install it: "
            'pip install "keras-attention[text]". Received: no module tensorflow_text'
        ) from error
    try:
        with tf.init_scope():
            return tensorflow_text.FastWordpieceTokenizer(
                list(vocabulary),
                suffix_indicator=prefix,
                max_bytes_per_word=_MOST_BYTES_PER_WORD,
                token_out_type=tf.int32,
                unknown_token=unknown,
                no_pretokenization=True,
            )
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"tensorflow_text cannot hold this vocabulary: {error} Change the token "
            f"it names. Received: {len(vocabulary)} tokens"
        ) from error
