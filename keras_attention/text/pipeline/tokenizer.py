"""A `tokenizer.json` as TensorFlow operations: texts to ids, ids to texts."""

import pathlib
from collections.abc import Mapping
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from keras_attention import untrusted
from keras_attention.text import arguments, engine, framing, json_files, writing
from keras_attention.text.base import Tokenizer
from keras_attention.text.pipeline import old_folders
from keras_attention.text.pipeline.pipeline import Pipeline


@keras.saving.register_keras_serializable("keras_attention")
class PipelineTokenizer(Tokenizer):
    """Any tokenizer that a `tokenizer.json` describes, as TensorFlow operations.

    `load_tokenizer` returns it for folders that `WordPieceTokenizer` and
    `BytePairTokenizer` do not read: Unigram (T5, XLM-R, ALBERT), byte fallback
    (Llama 2, Gemma), word level, and other patterns, normalizers and added tokens. Ids,
    offsets and decoded texts are equal to those of Hugging Face's `tokenizers`. A
    component that is not computed is refused by its name.

    Bytes that are not UTF-8 are read as U+FFFD.

    Args:
        specification: dict, the content of a `tokenizer.json`. Its sections
            "truncation" and "padding" are not followed.
        special_tokens: dict of the tokens with the roles `"bos"`, `"eos"`, `"unk"`,
            `"cls"`, `"sep"`, `"pad"` and `"mask"`; roles may be missing. Without
            `"pad"`, rows are padded with `"eos"`, or 0: use `padding_mask`.
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
        `[B, T]`, where T is the length of the longest row; and `segment_ids` where the
        template tells the second text from the first.

    Example:
    >>> model = {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "ada": 1}}
    >>> steps = {"normalizer": {"type": "Lowercase"}, "model": model}
    >>> steps["pre_tokenizer"] = {"type": "Whitespace"}
    >>> tokenizer = PipelineTokenizer(steps)
    >>> tokenizer(["Ada!"])["token_ids"].numpy()
    array([[1, 0]], dtype=int32)
    """

    def __init__(
        self,
        specification: Mapping[str, Any],
        *,
        special_tokens: Mapping[str, str | None] | None = None,
        max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        truncation: str = "longest_first",
    ) -> None:
        self._pipeline = Pipeline(specification)
        self._vocabulary, self._ids = self._pipeline.vocabulary, self._pipeline.ids
        self._special_tokens = {
            role: token
            for role, token in (special_tokens or {}).items()
            if token is not None
        }
        arguments.check_special_tokens(self._special_tokens, self._ids)
        self._template = self._pipeline.template
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
            "specification": dict(specification),
            "special_tokens": dict(self._special_tokens),
            "max_length": max_length,
            "padding_side": padding_side,
            "truncation_side": truncation_side,
            "truncation": truncation,
        }

    @classmethod
    def from_tokenizer_json(
        cls, path: json_files.Path, *, max_length: int | None = None
    ) -> Self:
        """Reads a `tokenizer.json`; what is not computed is refused by name."""
        with untrusted.reading(path):
            return cls(json_files.read_json(path), max_length=max_length)

    @classmethod
    def from_folder(
        cls,
        folder: json_files.Path,
        *,
        max_length: int | Literal["from_config"] | None = "from_config",
    ) -> Self:
        """Reads a folder with a `tokenizer.json`, and usually `tokenizer_config.json`.

        A `vocab.json` and a `merges.txt` of CLIP or Qwen2 are read too.

        Args:
            folder: The path of the folder.
            max_length: The constructor's argument. By default `model_max_length` of
                `tokenizer_config.json`; no limit if it has none, or one above 10⁶.
        """
        folder = pathlib.Path(folder)
        with untrusted.reading(folder):
            settings = json_files.read_optional_json(folder / json_files.SETTINGS_FILE)
            if (folder / "tokenizer.json").exists():
                specification = json_files.read_json(folder / "tokenizer.json")
                tokens = json_files.special_tokens(settings)
            else:
                vocab = json_files.read_json(folder / "vocab.json")
                merges = json_files.read_merges(folder / "merges.txt")
                specification, tokens = old_folders.read(vocab, merges, settings)
            options = json_files.limits(settings)
            if max_length != "from_config":
                options["max_length"] = max_length
            model = specification.get("model") or {}
            added = specification.get("added_tokens") or []
            known = {token["content"] for token in added}
            vocab = model.get("vocab") or {}
            known |= {t[0] for t in vocab} if isinstance(vocab, list) else set(vocab)
            tokens = {role: token for role, token in tokens.items() if token in known}
            return cls(specification, special_tokens=tokens, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**self._config, **self._chat_config()}

    def _files(self) -> dict[str, Any]:
        settings = writing.settings_json("PreTrainedTokenizerFast", self._config)
        return {
            "tokenizer.json": self._config["specification"],
            json_files.SETTINGS_FILE: settings,
        }

    def _engine(self) -> engine.Encode | None:
        return engine.hugging_face(self._config["specification"])

    def _pieces(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        return self._pipeline(texts, with_offsets)

    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Returns the texts `[B]` of ids `[B, T]`, as the decoder joins them.

        Equal to Hugging Face's `decode_batch`; incomplete characters become U+FFFD.

        Args:
            ids: The token ids, integers `[B, T]`, dense or ragged.
            skip_special_tokens: bool. Whether to omit the special tokens.
        """
        return self._pipeline.detokenize(ids, skip_special_tokens)
