"""SentencePiece as TensorFlow operations: from strings to ids of T5, Llama, …."""

import base64
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from keras_attention import untrusted
from keras_attention.text import arguments, engine, framing, json_files, writing
from keras_attention.text.base import Tokenizer
from keras_attention.text.sentence_piece import files

OP_LIBRARIES = ("_sentencepiece_tokenizer.so",)
_SPACE = "\u2581"  # what the models write for a space
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_PARTS = ("start", "middle", "end")


@keras.saving.register_keras_serializable("keras_attention")
class SentencePieceTokenizer(Tokenizer):
    """The tokenizer of T5, XLM-R, Marian and Llama as a TensorFlow operation.

    Ids are equal to those of the library `sentencepiece`, for unigram and BPE models,
    with byte fallback. Special tokens are not found in raw text: "</s>" is read as four
    characters, so untrusted text cannot contain an end token. Reference:
    [Kudo & Richardson, 2018](https://arxiv.org/abs/1808.06226).

    Bytes that are not UTF-8 are read as U+FFFD.

    Args:
        model: The path of a `.model` or `.spm` file, or its bytes.
        vocabulary: list of tokens, the index of each is its id, for ids other than
            those of the model: pieces are found by their text. By default the model's
            pieces.
        special_tokens: dict of the tokens with the roles `"bos"`, `"eos"`, `"unk"`,
            `"cls"`, `"sep"`, `"pad"` and `"mask"`; roles may be missing. By default
            those of `<s>`, `</s>`, `<unk>`, `<pad>` and `<mask>` that the vocabulary
            has.
        template: dict of the lists of special tokens at the `"start"` of a row, in the
            `"middle"` of a pair and at the `"end"`.
        max_length: int or `None`. The most tokens in a row, with special tokens.
        padding_side: `"right"` or `"left"`: the side on which shorter rows are padded.
        truncation_side: `"right"` or `"left"`: the side on which texts are truncated.
        truncation: `"longest_first"`, `"only_first"` or `"only_second"`: the text of a
            pair that is truncated.

    Call arguments:
        texts: The texts, strings `[B]`, a tensor or a list.
        texts_pair: The second text of each row, strings `[B]`, or `None`.

    Returns:
        dict of `token_ids` (int32) and `padding_mask` (bool, True = a token), each
        `[B, T]`, where T is the length of the longest row.

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
            model = files.read_model(model)
        self._model = _operation(model)
        pieces = self._pieces_of_model = _all_pieces(self._model)
        self._vocabulary = tuple(pieces if vocabulary is None else vocabulary)
        self._ids = arguments.token_ids(self._vocabulary)
        given = files.SPECIAL if special_tokens is None else special_tokens
        self._special_tokens = {
            role: token
            for role, token in given.items()
            if token is not None and (special_tokens is not None or token in self._ids)
        }
        arguments.check_special_tokens(self._special_tokens, self._ids)
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
        folder: json_files.Path,
        *,
        max_length: int | Literal["from_config"] | None = "from_config",
    ) -> Self:
        """Reads a model folder of T5, XLM-R, CamemBERT, Marian, Llama or Mistral.

        Args:
            folder: The path of a folder with the `.model` or `.spm` file, and usually
                a `tokenizer_config.json` that names the class.
            max_length: The constructor's argument. By default `model_max_length` of
                `tokenizer_config.json`; no limit if it has none, or one above 10⁶.
        """
        with untrusted.reading(folder):
            options = files.read_folder(
                pathlib.Path(folder), lambda model: _all_pieces(_operation(model))
            )
            if max_length != "from_config":
                options["max_length"] = max_length
            return cls(**options)

    @classmethod
    def from_llama2c(
        cls, path: json_files.Path, *, max_length: int | None = None
    ) -> Self:
        """Reads a `tokenizer.bin` of llama2.c; texts begin with `<s>`.

        Args:
            path: The path of the file.
            max_length: The constructor's argument.
        """
        model = files.llama2c_model(path)
        template = {"start": ["<s>"], "middle": ["<s>"]}
        return cls(model, template=template, max_length=max_length)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Returns a tokenizer with the arguments that `get_config` returned."""
        model = base64.b64decode(config["model"])
        return super().from_config({**config, "model": model})

    @property
    def resources(self) -> list[Any]:
        """The TensorFlow resources that a SavedModel with this tokenizer must track."""
        return [self._model]

    @property
    def model_bytes(self) -> bytes:
        """The content of the `.model` file."""
        return base64.b64decode(self._config["model"])

    def _files(self) -> dict[str, Any]:
        found = files.files_of(
            self._pieces_of_model, self.vocabulary, self._config["template"]
        )
        kind, model_name = found.pop("class"), found.pop("model")
        settings = writing.settings_json(kind, self._config)
        settings |= found.pop("settings")
        return {
            model_name: self.model_bytes,
            json_files.SETTINGS_FILE: settings,
            **found,
        }

    def _engine(self) -> engine.Encode | None:
        return engine.sentence_piece(self.model_bytes, self._id_of_piece)

    def _pieces(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        table = tf.constant(self._id_of_piece, tf.int32)
        if not with_offsets:
            found = self._model.tokenize(texts)
            return framing.Pieces(tf.gather(table, found.values), found.row_splits, {})
        found, starts, ends = self._model.tokenize_with_offsets(texts)
        # Offsets count bytes of a text here, and characters in the result.
        _, byte_starts = tf.strings.unicode_decode_with_offsets(texts, "UTF-8")
        sizes = tf.cast(tf.strings.length(texts), tf.int64)
        base = tf.cumsum(sizes, exclusive=True)
        bytes_of_all = byte_starts.values + tf.gather(base, byte_starts.value_rowids())
        row = found.value_rowids()

        def characters(offsets):
            at = tf.cast(offsets.values, tf.int64) + tf.gather(base, row)
            at = tf.searchsorted(bytes_of_all, at, out_type=tf.int64)
            first = tf.gather(byte_starts.row_starts(), row)
            return tf.cast(at - first, tf.int32)

        extras = {"starts": characters(starts), "ends": characters(ends)}
        return framing.Pieces(tf.gather(table, found.values), found.row_splits, extras)

    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Returns the texts `[B]` of ids `[B, T]`: pieces joined, with their spaces.

        Incomplete characters of the byte fallback become U+FFFD.

        Args:
            ids: The token ids, integers `[B, T]`, dense or ragged.
            skip_special_tokens: bool. Whether to omit the special tokens.
        """
        rows = arguments.id_rows(ids, self.vocabulary_size)
        if skip_special_tokens:
            special = {*self._special_tokens.values(), *self._vocabulary_without_pieces}
            is_plain = [token not in special for token in self._vocabulary]
            rows = tf.ragged.boolean_mask(rows, tf.gather(tf.constant(is_plain), rows))
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
    """Returns the operation that splits texts; it holds the model."""
    with tf.init_scope():
        try:
            kind = arguments.tensorflow_text().SentencepieceTokenizer
            found = kind(model, out_type=tf.int32)
            found.vocab_size()
        except tf.errors.OpError as error:
            raise ValueError(
                "This is not a SentencePiece model. Give the .model or .spm file as it "
                f"was downloaded. Received: {len(model)} bytes, "
                f"{untrusted.clip(error.message)}"
            ) from error
    return found


def _all_pieces(operation: Any) -> list[str]:
    """Returns the text of each piece of the model."""
    with tf.init_scope():
        texts = operation.id_to_string(tf.range(operation.vocab_size()))
        return [text.decode() for text in texts.numpy()]
