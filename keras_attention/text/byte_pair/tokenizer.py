"""Byte-level BPE in the graph: raw strings in, the ids of GPT-2's family out."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from keras_attention.text import arguments, framing, writing
from keras_attention.text.base import Tokenizer
from keras_attention.text.byte_pair import files as byte_files
from keras_attention.text.byte_pair.merges import ByteMerges, byte_characters
from keras_attention.text.byte_pair.words import (
    GPT2_PATTERN,
    ByteSplitter,
    check_pattern,
)


@keras.saving.register_keras_serializable("keras_attention")
class BytePairTokenizer(Tokenizer):
    """The tokenizer of GPT-2, RoBERTa, BART and Llama 3 as TensorFlow operations.

    Equal to Hugging Face's `tokenizers`: ids, offsets and decoded texts. It is made of
    TensorFlow's own operations alone, so a SavedModel that holds it opens anywhere.
    Reference: [Sennrich et al., 2016](https://arxiv.org/abs/1508.07909); Radford et
    al., 2019.

    Bytes that are not UTF-8 count as U+FFFD.

    Args:
        vocabulary: list of tokens in GPT-2's letters for bytes; the place is the id.
        merges: list of pairs of tokens, the first is merged first.
        pattern: str. The regular expression that cuts words; GPT-2's by default,
            Llama 3's and Qwen2's are known too.
        add_prefix_space: bool. Put a space before a text that starts without.
        trim_offsets: bool. Leave the space of a word out of its offsets.
        ignore_merges: bool. A word that is a token stays whole, whatever the merges.
        normalization: `"NFC"` (Qwen2's: characters composed; needs tensorflow_text),
            or `None`.
        special_tokens: dict of the names of `"bos"`, `"eos"`, `"unk"`, `"cls"`,
            `"sep"`, `"pad"` and `"mask"`, those that there are. Without a `"pad"`,
            rows are filled with `"eos"`, or 0: `padding_mask` tells them.
        added_tokens: list of tokens found in the raw text, or dicts of `content`,
            `lstrip`, `rstrip` (swallow white space) and `special` (left out by
            `detokenize`). By default the special tokens.
        template: dict of the tokens at the `"start"`, in the `"middle"` of a pair and
            at the `"end"`, each a list.
        max_length: int or `None`. Most tokens in a row, special tokens included.
        padding_side: `"right"` or `"left"`.
        truncation_side: `"right"` or `"left"`: the end that is cut.
        truncation: `"longest_first"`, `"only_first"` or `"only_second"`: which text of
            a pair is cut.

    Call arguments:
        texts: strings `[B]`, a tensor or a list.
        texts_pair: strings `[B]`, the second text of each row, or `None`.

    Returns:
        dict of `token_ids` (int32) and `padding_mask` (bool, True = a token), each
        `[B, T]`, as long as the longest row.

    Example:
    >>> from keras_attention.text.byte_pair.merges import byte_characters
    >>> letters = [*byte_characters().values()]
    >>> merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    >>> tokens = [*letters, "th", "the", "Ġthe"]
    >>> tokenizer = BytePairTokenizer(tokens, merges)
    >>> tokenizer(["the the", "the"])["token_ids"].numpy()
    array([[257, 258],
           [257,   0]], dtype=int32)
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[Sequence[str]],
        *,
        pattern: str = GPT2_PATTERN,
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        ignore_merges: bool = False,
        normalization: str | None = None,
        special_tokens: Mapping[str, str | None] | None = None,
        added_tokens: Sequence[str | Mapping[str, Any]] | None = None,
        template: Mapping[str, Sequence[str]] | None = None,
        max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        truncation: str = "longest_first",
    ) -> None:
        self._vocabulary = tuple(vocabulary)
        self._ids = arguments.token_ids(self._vocabulary)
        check_pattern(pattern)
        byte_files.check_normalization(normalization)
        self._special_tokens = {
            role: token
            for role, token in (special_tokens or {}).items()
            if token is not None
        }
        byte_files.check_special_tokens(self._special_tokens, self._ids)
        if added_tokens is None:
            added_tokens = list(dict.fromkeys(self._special_tokens.values()))
        self._added = byte_files.added_tokens(added_tokens, self._ids)
        byte_files.check_offsets(trim_offsets, self._added)
        template = {part: list((template or {}).get(part, ())) for part in _PARTS}
        start, middle, end = (
            [self.token_to_id(token) for token in template[part]] for part in _PARTS
        )
        self._template = framing.Template(start, middle, end)
        fill = self._special_tokens.get("pad") or self._special_tokens.get("eos")
        self._limits = framing.Limits(
            max_length,
            self._ids.get(fill or "", 0),
            padding_side,
            truncation_side,
            truncation,
        )
        framing.check_limits(self._limits, self._template)
        self._config = {
            "merges": [list(pair) for pair in merges],
            "pattern": pattern,
            "add_prefix_space": add_prefix_space,
            "trim_offsets": trim_offsets,
            "ignore_merges": ignore_merges,
            "normalization": normalization,
            "special_tokens": dict(self._special_tokens),
            "added_tokens": [dict(token) for token in self._added.values()],
            "template": template,
            "max_length": max_length,
            "padding_side": padding_side,
            "truncation_side": truncation_side,
            "truncation": truncation,
        }
        self._build(merges)

    def _build(self, merges: Sequence[Sequence[str]]) -> None:
        letters = byte_characters()
        ids = byte_files.byte_ids(self._ids, letters)
        triples = byte_files.merge_ids(merges, self._ids)
        self._splitter = ByteSplitter(
            self._config["pattern"],
            self._config["add_prefix_space"],
            {
                token: (settings["lstrip"], settings["rstrip"])
                for token, settings in self._added.items()
            },
            self._config["normalization"],
        )
        codes = {letter: byte for byte, letter in letters.items()}
        self._bytes = [_to_bytes(token, codes) for token in self._vocabulary]
        self._merge = ByteMerges(ids, triples, self.vocabulary_size)
        if self._config["ignore_merges"]:
            self._merge.keep_whole(self._bytes)

    @classmethod
    def from_files(
        cls,
        vocabulary: byte_files.Path,
        merges: byte_files.Path,
        **options: Any,
    ) -> Self:
        """From `vocab.json` and `merges.txt`, or OpenAI's `encoder.json`, `vocab.bpe`.

        Args:
            vocabulary: path of the JSON file.
            merges: path of the list of merges.
            **options: the constructor's.
        """
        return cls(**byte_files.read_files(vocabulary, merges), **options)

    @classmethod
    def from_tokenizer_json(
        cls, path: byte_files.Path, *, max_length: int | None = None
    ) -> Self:
        """From a `tokenizer.json`; what cannot be done equally is refused by name."""
        return cls(**byte_files.read_tokenizer_json(path), max_length=max_length)

    @classmethod
    def from_folder(
        cls,
        folder: byte_files.Path,
        *,
        max_length: int | Literal["from_config"] | None = "from_config",
    ) -> Self:
        """From a model folder: its `tokenizer.json`, else `vocab.json` + `merges.txt`.

        Args:
            folder: holds them, and mostly a `tokenizer_config.json`.
            max_length: as in the constructor. By default `model_max_length` of
                `tokenizer_config.json`; no limit if it has none, or one above 10⁶.
        """
        options = byte_files.read_folder(folder)
        if max_length != "from_config":
            options["max_length"] = max_length
        return cls(**options)

    def _pieces(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        words = self._splitter(texts)
        is_added = words.added >= 0  # [W]
        text = tf.where(is_added, "", words.strings)
        unique, number = tf.unique(text)
        rows: Any = self._merge(unique)  # [U, None]
        if self._added:
            ids = [self._ids[token] for token in self._splitter.added]
            added = tf.gather(tf.constant(ids, tf.int32), tf.maximum(words.added, 0))
            lengths = tf.gather(rows.row_lengths(), number)
            lengths = tf.where(is_added, tf.ones_like(lengths), lengths)
            begins = tf.gather(rows.row_starts(), number)
            begins = tf.where(is_added, tf.size(rows.values, tf.int64), begins)
            pool = tf.concat([rows.values, [0]], 0)
            places = tf.ragged.range(begins, begins + lengths)
            values = tf.gather(pool, places.values)
            splits = places.row_splits
            where = tf.where(is_added)[:, 0]
            values = tf.tensor_scatter_nd_update(
                values, tf.gather(splits, where)[:, None], tf.gather(added, where)
            )
        else:
            gathered: Any = tf.gather(rows, number)
            values, splits = gathered.values, gathered.row_splits
        row_splits = tf.gather(splits, words.row_splits)
        extras = self._offsets(words, values, splits) if with_offsets else {}
        return framing.Pieces(values, row_splits, extras)

    def _offsets(self, words: Any, ids: Any, splits: Any) -> dict[str, tf.Tensor]:
        """The characters from which the bytes of each token come."""
        codes = words.codes
        size = 1 + sum(tf.cast(codes >= least, tf.int64) for least in _BYTES_FROM)
        size = tf.where(codes >= 0x110000, tf.constant(1, tf.int64), size)
        byte_starts = tf.cumsum(size, exclusive=True)
        lengths = tf.gather(tf.constant([*map(len, self._bytes)], tf.int64), ids)
        if self._added:
            where = tf.where(words.added >= 0)[:, 0]
            lengths = tf.tensor_scatter_nd_update(
                lengths,
                tf.gather(splits, where)[:, None],
                tf.ones_like(where),
            )
        stops = tf.cumsum(lengths)
        first = tf.searchsorted(byte_starts, stops - lengths, side="right") - 1
        last = tf.searchsorted(byte_starts, stops - 1, side="right") - 1
        starts = tf.cast(tf.gather(words.starts, first), tf.int32)
        ends = tf.cast(tf.gather(words.ends, last), tf.int32)
        if self._config["trim_offsets"]:
            starts, ends = self._trim(ids, starts, ends)
        return {"starts": starts, "ends": ends}

    def _trim(self, ids: Any, starts: Any, ends: Any) -> tuple[Any, Any]:
        """As the `ByteLevel` post-processor does, its corner cases included."""
        blank = byte_characters()[ord(" ")]
        spaces = [token.replace(blank, " ") for token in self._vocabulary]
        leading = [len(token) - len(token.lstrip()) for token in spaces]
        trailing = [len(token) - len(token.rstrip()) for token in spaces]
        leading = tf.gather(tf.constant(leading), ids)
        trailing = tf.gather(tf.constant(trailing), ids)
        if self._config["add_prefix_space"]:
            leading = tf.where((starts == 0) & (leading == 1), 0, leading)
        starts = tf.minimum(starts + leading, ends)
        ends = tf.where(ends >= trailing, tf.maximum(ends - trailing, starts), ends)
        return starts, ends

    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Texts `[B]` of ids `[B, T]`, the inverse of `tokenize`.

        Equal to Hugging Face's `decode_batch`; incomplete characters become U+FFFD.

        Args:
            ids: integers `[B, T]`, dense or ragged.
            skip_special_tokens: bool. Leave out the special tokens.
        """
        rows = arguments.id_rows(ids)
        if skip_special_tokens:
            special = {t for t, settings in self._added.items() if settings["special"]}
            kept = tf.constant([token not in special for token in self._vocabulary])
            rows = tf.ragged.boolean_mask(rows, tf.gather(kept, rows))
        joined = tf.strings.reduce_join(tf.gather(self._byte_strings, rows), axis=1)
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")

    def to_tokenizer_json(self) -> dict[str, Any]:
        """The content of a `tokenizer.json` for Hugging Face's `tokenizers`."""
        added = self._config["added_tokens"]
        return writing.byte_level_json(self._ids, self._config, added)

    def _files(self) -> dict[str, Any]:
        settings = writing.settings_json("PreTrainedTokenizerFast", self._config)
        return {
            "tokenizer.json": self.to_tokenizer_json(),
            "tokenizer_config.json": settings,
        }

    @functools.cached_property
    def _byte_strings(self) -> tf.Tensor:
        with tf.init_scope():
            return tf.constant(self._bytes, tf.string)


_PARTS = ("start", "middle", "end")
_BYTES_FROM = (0x80, 0x800, 0x10000)  # from here on UTF-8 takes 2, 3, 4 bytes


def _to_bytes(token: str, codes: Mapping[str, int]) -> bytes:
    """The bytes that a token stands for; an added token stands for itself."""
    if all(letter in codes for letter in token):
        return bytes(codes[letter] for letter in token)
    return token.encode()
