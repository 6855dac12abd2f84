"""SentencePiece in the graph: raw strings in, the ids of T5, XLM-R or Llama out."""

import base64
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from keras_attention.text import arguments, framing, writing
from keras_attention.text.base import Tokenizer
from keras_attention.text.byte_pair import files as byte_files
from keras_attention.text.sentence_piece import files as sentence_piece_files

OP_LIBRARIES = ("_sentencepiece_tokenizer.so",)
_SPACE = "\u2581"  # what the models write for a space
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_PARTS = ("start", "middle", "end")


@keras.saving.register_keras_serializable("keras_attention")
class SentencePieceTokenizer(Tokenizer):
    """The tokenizer of T5, XLM-R, Marian and Llama as a TensorFlow operation.

    Equal to the library `sentencepiece`, unigram and BPE, byte fallback too. Special
    tokens are not found in raw text: "</s>" is read as four characters, so text from
    strangers can end nothing. Reference: [Kudo & Richardson,
    2018](https://arxiv.org/abs/1808.06226).

    Bytes that are not UTF-8 count as U+FFFD.

    Args:
        model: path of a `.model` or `.spm` file, or its bytes.
        vocabulary: list of tokens, the place is the id, where ids are others than those
            of the model: pieces are found by their text. Those of the model by default.
        special_tokens: dict of the names of `"bos"`, `"eos"`, `"unk"`, `"cls"`,
            `"sep"`, `"pad"` and `"mask"`, those that there are. By default what the
            vocabulary has of `<s>`, `</s>`, `<unk>`, `<pad>` and `<mask>`.
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
    ```python
    tokenizer = ka.SentencePieceTokenizer("t5/spiece.model", template={"end": ["</s>"]})
    tokenizer(["The house is wonderful."])["token_ids"]
    ```
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike,
        *,
        vocabulary: Sequence[str] | None = None,
        special_tokens: Mapping[str, str | None] | None = None,
        template: Mapping[str, Sequence[str]] | None = None,
        max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        truncation: str = "longest_first",
    ) -> None:
        if not isinstance(model, bytes):
            model = sentence_piece_files.read_model(model)
        self._model = _operation(model)
        pieces = self._pieces_of_model = _all_pieces(self._model)
        self._vocabulary = tuple(pieces if vocabulary is None else vocabulary)
        self._ids = arguments.token_ids(self._vocabulary)
        given = (
            sentence_piece_files.SPECIAL if special_tokens is None else special_tokens
        )
        self._special_tokens = {
            role: token
            for role, token in given.items()
            if token is not None and (special_tokens is not None or token in self._ids)
        }
        byte_files.check_special_tokens(self._special_tokens, self._ids)
        unknown = self._ids.get(self._special_tokens.get("unk", ""), 0)
        self._id_of_piece = [self._ids.get(piece, unknown) for piece in pieces]
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
            "model": base64.b64encode(model).decode(),
            "special_tokens": dict(self._special_tokens),
            "template": template,
            "max_length": max_length,
            "padding_side": padding_side,
            "truncation_side": truncation_side,
            "truncation": truncation,
        }

    @classmethod
    def from_folder(
        cls,
        folder: byte_files.Path,
        *,
        max_length: int | Literal["from_config"] | None = "from_config",
    ) -> Self:
        """From a model folder of T5, XLM-R, CamemBERT, Marian, Llama or Mistral.

        Args:
            folder: holds the `.model` or `.spm` file, and mostly a
                `tokenizer_config.json` that names the class.
            max_length: as in the constructor. By default `model_max_length` of
                `tokenizer_config.json`; no limit if it has none, or one above 10⁶.
        """
        options = sentence_piece_files.read_folder(
            pathlib.Path(folder), lambda model: _all_pieces(_operation(model))
        )
        if max_length != "from_config":
            options["max_length"] = max_length
        return cls(**options)

    @classmethod
    def from_llama2c(
        cls, path: byte_files.Path, *, max_length: int | None = None
    ) -> Self:
        """From a `tokenizer.bin` of llama2.c; texts begin with `<s>`.

        Args:
            path: of the file.
            max_length: as in the constructor.
        """
        model = sentence_piece_files.llama2c_model(path)
        template = {"start": ["<s>"], "middle": ["<s>"]}
        return cls(model, template=template, max_length=max_length)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The tokenizer that `get_config` was called on."""
        return cls(**{**config, "model": base64.b64decode(config["model"])})

    @property
    def resources(self) -> list[Any]:
        """What a SavedModel must track beside the tokenizer."""
        return [self._model]

    @property
    def model_bytes(self) -> bytes:
        """The `.model` file."""
        return base64.b64decode(self._config["model"])

    def _files(self) -> dict[str, Any]:
        files = sentence_piece_files.files_of(
            self._pieces_of_model, self.vocabulary, self._config["template"]
        )
        kind, model_name = files.pop("class"), files.pop("model")
        settings = writing.settings_json(kind, self._config)
        settings |= files.pop("settings")
        return {
            model_name: self.model_bytes,
            "tokenizer_config.json": settings,
            **files,
        }

    def _pieces(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        table = tf.constant(self._id_of_piece, tf.int32)
        if not with_offsets:
            found = self._model.tokenize(texts)
            return framing.Pieces(tf.gather(table, found.values), found.row_splits, {})
        found, starts, ends = self._model.tokenize_with_offsets(texts)
        # From bytes of each text to characters of it.
        _, places = tf.strings.unicode_decode_with_offsets(texts, "UTF-8")
        sizes = tf.cast(tf.strings.length(texts), tf.int64)
        base = tf.cumsum(sizes, exclusive=True)
        bytes_of_all = places.values + tf.gather(base, places.value_rowids())
        row = found.value_rowids()

        def characters(offsets):
            at = tf.cast(offsets.values, tf.int64) + tf.gather(base, row)
            at = tf.searchsorted(bytes_of_all, at, out_type=tf.int64)
            return tf.cast(at - tf.gather(places.row_starts(), row), tf.int32)

        extras = {"starts": characters(starts), "ends": characters(ends)}
        return framing.Pieces(tf.gather(table, found.values), found.row_splits, extras)

    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Texts `[B]` of ids `[B, T]`: pieces put together, with their spaces.

        Incomplete characters of the byte fallback become U+FFFD.

        Args:
            ids: integers `[B, T]`, dense or ragged.
            skip_special_tokens: bool. Leave out the special tokens.
        """
        rows = arguments.id_rows(ids)
        if skip_special_tokens:
            special = {*self._special_tokens.values(), *self._vocabulary_without_pieces}
            kept = tf.constant([token not in special for token in self._vocabulary])
            rows = tf.ragged.boolean_mask(rows, tf.gather(kept, rows))
        joined = tf.strings.reduce_join(tf.gather(self._byte_strings, rows), axis=1)
        if self._puts_space_before:
            joined = tf.strings.regex_replace(joined, "^ ", "")
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")

    @functools.cached_property
    def _vocabulary_without_pieces(self) -> set[str]:
        return {*self._vocabulary} - {*self._pieces_of_model}

    @functools.cached_property
    def _byte_strings(self) -> tf.Tensor:
        with tf.init_scope():
            return tf.constant([_to_bytes(token) for token in self._vocabulary])

    @functools.cached_property
    def _puts_space_before(self) -> bool:
        with tf.init_scope():
            first = int(self._model.tokenize(tf.constant(["a"])).values[0])
        return self._pieces_of_model[first].startswith(_SPACE)


def _to_bytes(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    if byte is not None:
        return bytes.fromhex(byte[1])
    return token.replace(_SPACE, " ").encode()


def _operation(model: bytes) -> Any:
    """The operation that splits texts, with the model inside."""
    with tf.init_scope():
        try:
            kind = arguments.tensorflow_text().SentencepieceTokenizer
            found = kind(model, out_type=tf.int32)
            found.vocab_size()
        except tf.errors.OpError as error:
            raise ValueError(
                "This is no SentencePiece model. Give the .model or .spm file as it "
                f"was downloaded. Received: {len(model)} bytes, {error.message}"
            ) from error
    return found


def _all_pieces(operation: Any) -> list[str]:
    """The text of each piece of the model."""
    with tf.init_scope():
        texts = operation.id_to_string(tf.range(operation.vocab_size()))
        return [text.decode() for text in texts.numpy()]
