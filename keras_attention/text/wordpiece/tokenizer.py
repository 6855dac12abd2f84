"""WordPiece as TensorFlow operations: from strings to BERT's token ids."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from keras_attention import untrusted
from keras_attention.text import arguments, engine, framing, json_files, writing
from keras_attention.text.base import Tokenizer
from keras_attention.text.wordpiece import files
from keras_attention.text.wordpiece.words import BertWords, fast_wordpiece

# The files of the tensorflow_text wheel that register the operations used here. A
# program that opens a SavedModel with this tokenizer and does not import
# tensorflow_text must load them first (C: TF_LoadLibrary; TF Serving: a custom build).
OP_LIBRARIES = ("_fast_wordpiece_tokenizer.so",)


@keras.saving.register_keras_serializable("keras_attention")
class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer as TensorFlow operations, equal to Hugging Face's `tokenizers`.

    Use it with `BertEncoder` and in exported models that take text. It runs without
    Python: make it an attribute of the exported `tf.Module`, and the SavedModel holds
    the vocabulary and the tables, and can be opened in TF Serving or from C (see
    `OP_LIBRARIES`). Reference: Schuster & Nakajima, 2012; [Devlin et al.,
    2018](https://arxiv.org/abs/1810.04805).

    Bytes that are not UTF-8 are read as U+FFFD, which `clean_text` removes. Offsets are
    those of Hugging Face with one exception: where stripping accents reorders combining
    marks that are not removed (such as U+1BAA), they are the mark's own position.

    Args:
        vocabulary: list of tokens, the index of each is its id; or the path of a
            `vocab.txt`.
        lowercase: bool. Whether to lower-case each code point, regardless of its
            neighbours.
        strip_accents: bool. Whether to remove accents. `None`: the same as `lowercase`.
        handle_chinese_chars: bool. Whether each Chinese character is a word.
        clean_text: bool. Whether to remove control characters.
        max_length: int or `None`. The most tokens in a row, with special tokens; a
            longer text is truncated. `None`: no limit.
        continuing_subword_prefix: str. The prefix of tokens that continue a word.
        max_input_chars_per_word: int. A longer word becomes the unknown token.
        special_tokens: dict. Other tokens for the roles `"unk"`, `"cls"`, `"sep"`,
            `"pad"` and `"mask"`; `"mask"` may be `None`.
        added_tokens: list of tokens to find in the raw text, inside words too, before
            the text is normalised: Hugging Face's added tokens with `special: true,
            normalized: false`. By default the special tokens, so that the text "[SEP]"
            gives `sep_token_id`; with `[]`, untrusted text is read literally.
        padding_side: `"right"` or `"left"`: the side on which shorter rows are padded.
        truncation_side: `"right"` or `"left"`: the side on which texts are truncated.
        truncation: `"longest_first"`, `"only_first"` or `"only_second"`: the text of a
            pair that is truncated.

    Call arguments:
        texts: The texts, strings `[B]`, a tensor or a list.
        texts_pair: The second text of each row, strings `[B]`, or `None`.

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
        vocabulary: Sequence[str] | json_files.Path,
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
        padding_side: str = "right",
        truncation_side: str = "right",
        truncation: str = "longest_first",
    ) -> None:
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = files.read_vocabulary(vocabulary)
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
            "padding_side": padding_side,
            "truncation_side": truncation_side,
            "truncation": truncation,
        }
        start, end = (self._ids[self._special_tokens[role]] for role in ("cls", "sep"))
        self._template = framing.Template([start], [end], [end], has_segments=True)
        self._limits = framing.Limits(
            max_length,
            self._ids[self._special_tokens["pad"]],
            padding_side,
            truncation_side,
            truncation,
        )
        framing.check_limits(self._limits, self._template)
        self._words = BertWords(
            lowercase=lowercase,
            strip_accents=lowercase if strip_accents is None else strip_accents,
            handle_chinese_chars=handle_chinese_chars,
            clean_text=clean_text,
            added_tokens=arguments.added_tokens(added_tokens, self._ids),
        )
        self._wordpiece = fast_wordpiece(
            self._vocabulary, continuing_subword_prefix, self._special_tokens["unk"]
        )

    @classmethod
    def from_vocabulary_file(cls, path: json_files.Path, **options: Any) -> Self:
        """Reads a `vocab.txt`; `options` are the constructor's other arguments."""
        return cls(files.read_vocabulary(path), **options)

    @classmethod
    def from_tokenizer_json(
        cls,
        path: json_files.Path,
        *,
        max_length: int | None = 512,
        special_tokens: Mapping[str, str | None] | None = None,
    ) -> Self:
        """Reads a `tokenizer.json`; what is not supported is refused by name.

        Args:
            path: The path of the file.
            max_length: The constructor's argument. The file's "truncation" and
                "padding" are defaults of Hugging Face's call and are not followed.
            special_tokens: The constructor's argument, for the roles that the file does
                not name: `"mask"`, and `"pad"` if it has no "padding".
        """
        with untrusted.reading(path):
            options = files.read_tokenizer_json(path)
            options["special_tokens"].update(special_tokens or {})
            return cls(**options, max_length=max_length)

    @classmethod
    def from_folder(
        cls,
        folder: json_files.Path,
        *,
        max_length: int | Literal["from_config"] | None = "from_config",
    ) -> Self:
        """Reads a model folder: its `tokenizer.json`, else its `vocab.txt`.

        Args:
            folder: The path of a folder with one of these files, and usually a
                `tokenizer_config.json`.
            max_length: The constructor's argument. By default `model_max_length` of
                `tokenizer_config.json`; no limit if it has none, or one above 10⁶.
        """
        with untrusted.reading(folder):
            options = files.read_folder(folder)
            if max_length != "from_config":
                options["max_length"] = max_length
            return cls(**options)

    def _files(self) -> dict[str, Any]:
        config = self._config
        options = {
            "do_lower_case": config["lowercase"],
            "strip_accents": config["strip_accents"],
            "tokenize_chinese_chars": config["handle_chinese_chars"],
        }
        settings = writing.settings_json("BertTokenizer", config)
        return {
            "tokenizer.json": writing.word_piece_json(self._ids, config),
            json_files.SETTINGS_FILE: {**settings, **options},
            "vocab.txt": "".join(f"{token}\n" for token in self._vocabulary),
        }

    _fewest_for_graph = 32

    def _engine(self) -> engine.Encode | None:
        return engine.hugging_face(writing.word_piece_json(self._ids, self._config))

    def _pieces(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        words = self._words(texts)
        strings = tf.where(
            words.num_characters > self._config["max_input_chars_per_word"],
            self._special_tokens["unk"],
            words.strings,
        )
        if not with_offsets:
            pieces = self._wordpiece.tokenize(strings)  # [W, None]
            row_splits = tf.gather(pieces.row_splits, words.row_splits)
            return framing.Pieces(pieces.values, row_splits, {})
        pieces, starts, ends = self._wordpiece.tokenize_with_offsets(strings)
        row_splits = tf.gather(pieces.row_splits, words.row_splits)
        extras = self._offsets(words, strings, starts, ends)
        return framing.Pieces(pieces.values, row_splits, extras)

    def _offsets(
        self, words: Any, strings: tf.Tensor, starts: Any, ends: Any
    ) -> dict[str, tf.Tensor]:
        """Converts byte offsets in each word to character offsets in the text."""
        splits = starts.row_splits
        word = tf.repeat(tf.range(tf.size(strings)), splits[1:] - splits[:-1])
        # The offsets of [UNK] and of an added token are those of its whole word.
        is_whole = words.is_added | (strings != words.strings)
        is_whole |= splits[1:] - splits[:-1] == 1
        is_whole = tf.gather(is_whole, word)
        sizes = 1 + sum(tf.cast(words.codes >= n, tf.int64) for n in _BYTES_FROM)
        byte_starts = tf.cumsum(sizes, exclusive=True)  # of all code points
        first = words.code_splits[:-1]
        begin = tf.gather(byte_starts, tf.gather(first, word))
        places = tf.searchsorted(byte_starts, begin + starts.values, side="right") - 1
        stops = tf.searchsorted(byte_starts, begin + ends.values - 1, side="right") - 1
        last = tf.cast(tf.gather(words.code_splits[1:] - 1, word), tf.int32)
        places = tf.where(is_whole, tf.cast(tf.gather(first, word), tf.int32), places)
        stops = tf.where(is_whole, last, stops)
        return {
            "starts": tf.gather(words.starts, places),
            "ends": tf.gather(words.ends, stops),
        }

    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Returns the texts `[B]` of ids `[B, T]`: words joined by spaces.

        Equal to Hugging Face's `decode_batch` with the WordPiece decoder and
        `cleanup=False`: case, accents and spaces around punctuation are not restored.

        Args:
            ids: The token ids, integers `[B, T]`, dense or ragged.
            skip_special_tokens: bool. Whether to omit the special and the added tokens.
        """
        ids = arguments.id_rows(ids, self.vocabulary_size)
        tokens = tf.constant(self._vocabulary)
        if skip_special_tokens:
            special = {*self._special_tokens.values(), *self._config["added_tokens"]}
            is_plain = [token not in special for token in self._vocabulary]
            ids = tf.ragged.boolean_mask(ids, tf.gather(tf.constant(is_plain), ids))
        prefix = self._config["continuing_subword_prefix"]
        with_spaces = tf.constant(
            [
                token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
                for token in self._vocabulary
            ]
        )
        first = tf.strings.reduce_join(tf.gather(tokens, ids[:, :1]), axis=1)
        return first + tf.strings.reduce_join(
            tf.gather(with_spaces, ids[:, 1:]), axis=1
        )


_BYTES_FROM = (0x80, 0x800, 0x10000)  # from here on UTF-8 takes 2, 3, 4 bytes
