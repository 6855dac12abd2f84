"""The base class of all tokenizers: what follows once texts are split into tokens."""

import abc
import functools
import math
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import tensorflow as tf

from keras_attention.text import arguments, chat, engine, framing, writing


class Tokenizer(abc.ABC):
    """The interface of every tokenizer; a subclass splits and joins texts.

    A subclass sets `_vocabulary`, `_ids`, `_special_tokens`, `_template`, `_limits` and
    `_config` (the constructor's arguments without the vocabulary) and defines
    `_pieces`, `_files` and `detokenize`.
    """

    _vocabulary: tuple[str, ...]
    _ids: Mapping[str, int]
    _special_tokens: Mapping[str, Any]
    _template: framing.Template
    _limits: framing.Limits
    _config: dict[str, Any]
    # From this number of texts on, the graph is faster than the library of `_engine`.
    _fewest_for_graph: float = math.inf
    chat_templates: Mapping[str, str] = MappingProxyType({})

    @abc.abstractmethod
    def _pieces(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        """Returns the tokens of each text, not truncated, without special tokens."""

    @abc.abstractmethod
    def detokenize(self, ids: Any, skip_special_tokens: bool = True) -> tf.Tensor:
        """Returns the texts `[B]` of ids `[B, T]`."""

    @abc.abstractmethod
    def _files(self) -> dict[str, Any]:
        """Returns name to content of the files from which this tokenizer is loaded."""

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files that `load_tokenizer` and transformers read.

        Args:
            folder: The path of the folder, which is created if it does not exist.
                Files of the same names are replaced.
        """
        files = self._files()
        if self.chat_templates:
            name = "tokenizer_config.json"
            files[name] = {**files.get(name, {}), **chat.entry(self.chat_templates)}
        writing.write(folder, files)

    def __call__(self, texts: Any, texts_pair: Any = None) -> dict[str, tf.Tensor]:
        return self._run(texts, texts_pair, False)

    def encode_with_offsets(
        self, texts: Any, texts_pair: Any = None
    ) -> dict[str, tf.Tensor]:
        """As a call, and also returns `starts` and `ends` `[B, T]` (int32).

        They count characters of the given text (code points, as Python does), so that
        `text[start:end]` is the part of the text that a token represents; they are 0
        for special tokens and padding. Equal to Hugging Face's `Encoding.offsets`.
        """
        return self._run(texts, texts_pair, True)

    def _engine(self) -> engine.Encode | None:
        """Returns what encodes Python strings where no graph is needed, if anything."""
        return None

    @functools.cached_property
    def _without_graph(self) -> engine.Encode | None:
        return self._engine()

    def _eagerly(self, given: Any, with_offsets: bool, limits: framing.Limits) -> Any:
        """Returns the batch of lists of strings, or `None`: the graph must answer."""
        if not tf.executing_eagerly() or not isinstance(given[0], list | tuple):
            return None
        encode = self._without_graph
        if encode is None or len(given[0]) >= self._fewest_for_graph:
            return None
        batch = engine.batch(encode, given, with_offsets, self._template, limits)
        if batch is None:
            return None
        mask = batch.pop("padding_mask")
        rows = {name: tf.constant(values) for name, values in batch.items()}
        is_one = len(mask) == 1  # a row alone is not padded
        return rows | {
            "padding_mask": _no_padding(mask.shape[1]) if is_one else tf.constant(mask)
        }

    def _run(self, texts: Any, texts_pair: Any, with_offsets: bool) -> Any:
        both = (texts,) if texts_pair is None else (texts, texts_pair)
        batch = self._eagerly(both, with_offsets, self._limits)
        if batch is not None:
            return batch
        given = [arguments.strings(texts, "texts")]
        if texts_pair is not None:
            texts_pair = arguments.strings(texts_pair, "texts_pair")
            given.append(arguments.same_batch(given[0], texts_pair))
        if not tf.executing_eagerly():
            return self._encode(with_offsets, *given)
        return self._compiled[with_offsets, len(given)](*given)

    @functools.cached_property
    def _compiled(self) -> dict[tuple[bool, int], Any]:
        """The call as compiled graphs: run one by one, its operations take 30 ms."""
        strings = tf.TensorSpec([None], tf.string)
        return {
            (with_offsets, number): tf.function(
                functools.partial(self._encode, with_offsets),
                [strings] * number,
                autograph=False,
            )
            for with_offsets in (False, True)
            for number in (1, 2)
        }

    def _encode(
        self,
        with_offsets: bool,
        texts: tf.Tensor,
        texts_pair: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        first = self._pieces(texts, with_offsets)
        second = None
        if texts_pair is not None:
            second = self._pieces(texts_pair, with_offsets)
        return framing.frame(first, second, self._template, self._limits)

    def encode_whole(self, texts: Any) -> dict[str, tf.Tensor]:
        """As a call, but no text is truncated: for prompts and for scoring."""
        unlimited = self._limits._replace(max_length=None)
        batch = self._eagerly((texts,), False, unlimited)
        if batch is not None:
            return batch
        texts = arguments.strings(texts, "texts")
        eager = tf.executing_eagerly()
        return self._whole_compiled(texts) if eager else self._whole(texts)

    def _whole(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        limits = self._limits._replace(max_length=None)
        pieces = self._pieces(texts, False)
        return framing.frame(pieces, None, self._template, limits)

    @functools.cached_property
    def _whole_compiled(self) -> Any:
        strings = tf.TensorSpec([None], tf.string)
        return tf.function(self._whole, [strings], autograph=False)

    def frame_pairs(
        self, first: framing.Pieces, second: framing.Pieces
    ) -> dict[str, tf.Tensor]:
        """As a call with pairs of token lists: padded on the right, never truncated."""
        limits = self._limits._replace(max_length=None, padding_side="right")
        return framing.frame(first, second, self._template, limits)

    def encode_words(self, rows: Sequence[Sequence[str]]) -> dict[str, tf.Tensor]:
        """Encodes texts that are already lists of words, as for tagging.

        Returns the same as a call, and `word_ids` `[B, T]` (int32): for each token the
        index of its word in the row, −1 for special tokens and padding. Each word is
        split separately, as Hugging Face's `is_split_into_words=True` does. Cannot be
        used inside a graph.
        """
        rows = [list(row) for row in rows]
        words = [word for row in rows for word in row]
        split = self._split(tf.constant(words, tf.string, [len(words)]), False)
        counts = tf.constant([len(row) for row in rows], tf.int64, [len(rows)])
        bounds = tf.concat([[0], tf.cumsum(counts)], 0)
        word_ids = tf.ragged.range(counts).values
        sizes = split.row_splits[1:] - split.row_splits[:-1]
        pieces = framing.Pieces(
            split.ids,
            tf.gather(split.row_splits, bounds),
            {"word_ids": tf.repeat(word_ids, sizes)},
        )
        return framing.frame(pieces, None, self._template, self._limits)

    def _split(self, texts: tf.Tensor, with_offsets: bool) -> framing.Pieces:
        """Returns the tokens of each text; outside a graph by a compiled one."""
        if not tf.executing_eagerly():
            return self._pieces(texts, with_offsets)
        return self._split_compiled[with_offsets](texts)

    @functools.cached_property
    def _split_compiled(self) -> dict[bool, Any]:
        return {
            with_offsets: tf.function(
                functools.partial(self._pieces, with_offsets=with_offsets),
                [tf.TensorSpec([None], tf.string)],
                autograph=False,
            )
            for with_offsets in (False, True)
        }

    def apply_chat_template(
        self,
        messages: Sequence[Any],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        **variables: Any,
    ) -> Any:
        """Returns messages as the ids, or the text, that a chat model was trained on.

        The template is the folder's; it runs in a sandbox, as in transformers, with a
        limit of steps. Needs `pip install "keras-attention-layers[chat]"`.

        Args:
            messages: One conversation, a list of dicts of `role` and `content`; or a
                list of conversations.
            add_generation_prompt: Whether the beginning of an answer is appended.
            tokenize: Whether ids are returned, and not text.
            tools: JSON schemas of the functions that the model may call, as dicts.
            documents: Dicts of `title` and `text` that the model may read.
            chat_template: A template, or the name of one of the folder's.
            **variables: What the template sees in addition, such as `enable_thinking`.

        Returns:
            A list of ids, for `CausalLM.generate`, or a text; a list of them for a list
            of conversations.
        """
        template = chat.chosen(self.chat_templates, chat_template, tools)
        several = bool(messages) and isinstance(messages[0], list | tuple)
        own = {f"{role}_token": token for role, token in self._special_tokens.items()}
        given = {"tools": tools, "documents": documents, **own, **variables}
        given["add_generation_prompt"] = add_generation_prompt
        texts = [
            chat.render(template, each, **given)
            for each in (messages if several else [messages])
        ]
        rows = self.tokenize(texts).to_list() if tokenize else texts
        return rows if several else rows[0]

    def tokenize(self, texts: Any) -> tf.RaggedTensor:
        """Returns the token ids `[B, None]` of each text (int32).

        They are not truncated, and there are no special tokens around them.
        """
        pieces = self._split(arguments.strings(texts, "texts"), False)
        return tf.RaggedTensor.from_row_splits(
            pieces.ids, pieces.row_splits, validate=False
        )

    def tokenize_with_offsets(
        self, texts: Any
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Returns ids, starts and ends, each `[B, None]`; see `encode_with_offsets`."""
        pieces = self._split(arguments.strings(texts, "texts"), True)
        ids, starts, ends = (
            tf.RaggedTensor.from_row_splits(
                tf.cast(values, tf.int32), pieces.row_splits, validate=False
            )
            for values in (pieces.ids, pieces.extras["starts"], pieces.extras["ends"])
        )
        return ids, starts, ends

    def tokens(self, texts: Any, texts_pair: Any = None) -> list[list[str]]:
        """Returns the tokens of each row as Python strings, such as labels for a plot.

        They are in the order of a call's ids, with special tokens, without padding.
        Cannot be used inside a graph.
        """
        batch = self(texts, texts_pair)
        rows = tf.ragged.boolean_mask(batch["token_ids"], batch["padding_mask"])
        return [[self._vocabulary[i] for i in row] for row in rows.to_list()]

    def id_to_token(self, token_id: int) -> str:
        """Returns the token with this id."""
        if not 0 <= token_id < self.vocabulary_size:
            raise ValueError(
                f"Token ids are from 0 to {self.vocabulary_size - 1}. Pass one of "
                f"them. Received: token_id={token_id!r}"
            )
        return self._vocabulary[token_id]

    def token_to_id(self, token: str) -> int:
        """Returns the id of this token."""
        if token not in self._ids:
            raise ValueError(
                "The vocabulary has no such token. Pass one token; to split a text, "
                f"call tokenize(). Received: token={token!r}"
            )
        return self._ids[token]

    @property
    def resources(self) -> list[Any]:
        """The TensorFlow resources that a SavedModel with this tokenizer must track."""
        return []

    @property
    def vocabulary(self) -> list[str]:
        """The tokens; the index of each is its id."""
        return list(self._vocabulary)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens."""
        return len(self._vocabulary)

    @property
    def max_length(self) -> int | None:
        """The most tokens in a row, with special tokens; `None` if unlimited."""
        return self._limits.max_length

    @property
    def padding_side(self) -> str:
        """`"right"` or `"left"`: the side on which shorter rows are padded."""
        return self._limits.padding_side

    @property
    def bos_token_id(self) -> int | None:
        """The id of the token at the start of a text; `None` if there is none."""
        return self._special_id("bos")

    @property
    def eos_token_id(self) -> int | None:
        """The id of the token that ends a text; `None` if there is none."""
        return self._special_id("eos")

    @property
    def unk_token_id(self) -> int | None:
        """The id of the token for unknown text; `None` if there is none."""
        return self._special_id("unk")

    @property
    def cls_token_id(self) -> int | None:
        """The id of the token at the start of each row; `None` if there is none."""
        return self._special_id("cls")

    @property
    def sep_token_id(self) -> int | None:
        """The id of the token after each text; `None` if there is none."""
        return self._special_id("sep")

    @property
    def pad_token_id(self) -> int | None:
        """The id with which shorter rows are padded; `None` if there is none."""
        return self._special_id("pad")

    @property
    def mask_token_id(self) -> int | None:
        """The id of the token to be predicted; `None` if there is none."""
        return self._special_id("mask")

    def _special_id(self, role: str) -> int | None:
        return self._ids.get(self._special_tokens.get(role, ""))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the vocabulary as a list."""
        return {"vocabulary": self.vocabulary, **self._config, **self._chat_config()}

    def _chat_config(self) -> dict[str, Any]:
        templates = dict(self.chat_templates)
        return {"chat_templates": templates} if templates else {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Returns a tokenizer with the arguments that `get_config` returned."""
        config = dict(config)
        templates = config.pop("chat_templates", None)
        tokenizer = cls(**config)
        if templates:
            tokenizer.chat_templates = templates
        return tokenizer


@functools.lru_cache(1024)
def _no_padding(length: int) -> tf.Tensor:
    """Returns the mask of one row; it is kept, because making it takes 10 µs."""
    return tf.ones([1, length], tf.bool)
