"""Byte-level BPE as TensorFlow operations: from strings to ids of GPT-2 and others."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from keras_attention import untrusted
from keras_attention.text import arguments, engine, framing, json_files, writing
from keras_attention.text.base import Tokenizer
from keras_attention.text.byte_pair import files
from keras_attention.text.patterns import GPT2_PATTERN, byte_characters
from keras_attention.text.pipeline.pipeline import Pipeline


@keras.saving.register_keras_serializable("keras_attention")
class BytePairTokenizer(Tokenizer):
    """The tokenizer of GPT-2, RoBERTa, BART and Llama 3 as TensorFlow operations.

    Ids, offsets and decoded texts are equal to those of Hugging Face's `tokenizers`. It
    uses only TensorFlow's own operations, so a SavedModel with it needs no op library.
    Reference: [Sennrich et al., 2016](https://arxiv.org/abs/1508.07909); Radford et
    al., 2019.

    Bytes that are not UTF-8 are read as U+FFFD.

    Args:
        vocabulary: list of tokens in GPT-2's characters for bytes; the index of each is
            its id.
        merges: list of pairs of tokens, in the order in which they are merged.
        pattern: str. The regular expression that splits texts into words. GPT-2's by
            default; Llama 3's and Qwen2's are supported too.
        add_prefix_space: bool. Whether to put a space before a text that starts with
            none.
        trim_offsets: bool. Whether the offsets of a word exclude its leading space.
        ignore_merges: bool. Whether a word that is a token is one token, whatever the
            merges.
        normalization: `"NFC"` (Qwen2's: characters are composed; needs
            tensorflow_text), or `None`.
        special_tokens: dict of the tokens with the roles `"bos"`, `"eos"`, `"unk"`,
            `"cls"`, `"sep"`, `"pad"` and `"mask"`; roles may be missing. Without
            `"pad"`, rows are padded with `"eos"`, or 0: use `padding_mask`.
        added_tokens: list of tokens to find in the raw text, or dicts of `content`,
            `lstrip`, `rstrip` (whether the token includes the white space next to it)
            and `special` (whether `detokenize` omits it). By default the special
            tokens.
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
    >>> from keras_attention.text.patterns import byte_characters
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
        files.check_normalization(normalization)
        self._special_tokens = {
            role: token
            for role, token in (special_tokens or {}).items()
            if token is not None
        }
        arguments.check_special_tokens(self._special_tokens, self._ids)
        if added_tokens is None:
            added_tokens = list(dict.fromkeys(self._special_tokens.values()))
        self._added = files.added_tokens(added_tokens, self._ids)
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
        files.byte_ids(self._ids, byte_characters())
        files.merge_ids(merges, self._ids)
        self._pipeline = Pipeline(self.to_tokenizer_json())

    @classmethod
    def from_files(
        cls,
        vocabulary: json_files.Path,
        merges: json_files.Path,
        **options: Any,
    ) -> Self:
        """Reads `vocab.json` and `merges.txt`, or OpenAI's `encoder.json`, `vocab.bpe`.

        Args:
            vocabulary: The path of the JSON file.
            merges: The path of the list of merges.
            **options: The constructor's other arguments.
        """
        return cls(**files.read_files(vocabulary, merges), **options)

    @classmethod
    def from_tokenizer_json(
        cls, path: json_files.Path, *, max_length: int | None = None
    ) -> Self:
        """Reads a `tokenizer.json`; what is not supported is refused by name."""
        with untrusted.reading(path):
            return cls(**files.read_tokenizer_json(path), max_length=max_length)

    @classmethod
    def from_folder(
        cls,
        folder: json_files.Path,
        *,
        max_length: int | Literal["from_config"] | None = "from_config",
    ) -> Self:
        """Reads a folder: its `tokenizer.json`, else `vocab.json` and `merges.txt`.

        Args:
            folder: The path of a folder with these files, and usually a
                `tokenizer_config.json`.
            max_length: The constructor's argument. By default `model_max_length` of
                `tokenizer_config.json`; no limit if it has none, or one above 10⁶.
        """
        with untrusted.reading(folder):
            options = files.read_folder(folder)
            if max_length != "from_config":
                options["max_length"] = max_length
            return cls(**options)

    def _engine(self) -> engine.Encode | None:
        return engine.hugging_face(self.to_tokenizer_json())

    def _pieces(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        return self._pipeline(texts, with_offsets)

    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Returns the texts `[B]` of ids `[B, T]`, the inverse of `tokenize`.

        Equal to Hugging Face's `decode_batch`; incomplete characters become U+FFFD.

        Args:
            ids: The token ids, integers `[B, T]`, dense or ragged.
            skip_special_tokens: bool. Whether to omit the special tokens.
        """
        return self._pipeline.detokenize(ids, skip_special_tokens)

    def to_tokenizer_json(self) -> dict[str, Any]:
        """Returns the content of a `tokenizer.json` for Hugging Face's `tokenizers`."""
        added = self._config["added_tokens"]
        return writing.byte_level_json(self._ids, self._config, added)

    def _files(self) -> dict[str, Any]:
        settings = writing.settings_json("PreTrainedTokenizerFast", self._config)
        return {
            "tokenizer.json": self.to_tokenizer_json(),
            json_files.SETTINGS_FILE: settings,
        }


_PARTS = ("start", "middle", "end")
