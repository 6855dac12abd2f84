"""Labels of words: named entities, parts of speech."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.models.common import initializer
from keras_attention.models.inputs import standardize_ids
from keras_attention.tasks.batches import IGNORED, PaddedBatches, padded_rows
from keras_attention.tasks.common import (
    batches_by_length,
    check_labels,
    check_same_number,
    check_texts,
    freeze_unread_pooler,
    label_ids,
    padding_of,
    parts_config,
    probabilities,
    run_backbone,
    with_parts,
)
from keras_attention.tasks.words import (
    Words,
    frame_of,
    room_for,
    windows,
    words_of_lists,
    words_of_texts,
)

PARTS = ("backbone", "tokenizer")


@keras.saving.register_keras_serializable("keras_attention")
class TokenClassifier(keras.Model):
    """A label a word: a linear map on each token, read at the first token of a word.

    With labels as `O`, `B-person`, `I-person` (BIO), `tag` returns entities with
    their place in the text. A text longer than the model is read in parts.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 5.3.

    Args:
        backbone: A `BertEncoder`, or another encoder of this library.
        labels: Names of the classes, in the order of the logits.
        tokenizer: The backbone's, for `tag`, `tag_words` and `batches`; or `None`.
        dropout: Rate, in the head.
        **kwargs: Those of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`, where the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at real tokens.
        training: Whether dropout is active.

    Returns:
        Logits `[B, T, number of labels]`.

    Example:
    >>> backbone = ka.BertEncoder(
    ...     vocabulary_size=100,
    ...     num_layers=2,
    ...     num_heads=2,
    ...     hidden_dim=16,
    ...     intermediate_dim=32,
    ... )
    >>> model = ka.TokenClassifier(backbone, ["O", "B-person", "I-person"])
    >>> tuple(model(np.array([[1, 2, 3, 4]])).shape)
    (1, 4, 3)
    """

    def __init__(
        self,
        backbone: keras.Model,
        labels: Sequence[str],
        tokenizer: Any = None,
        *,
        dropout: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        self.labels = check_labels(labels)
        self.dropout = dropout
        self.head = ClassificationHead(
            len(self.labels),
            dropout=dropout,
            kernel_initializer=initializer(),
            name="head",
            dtype=self.dtype_policy,
        )
        freeze_unread_pooler(self)
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, None, self.backbone.hidden_dim))
        self.built = True

    def call(self, token_ids, segment_ids=None, padding_mask=None, training=None):
        inputs = standardize_ids(
            token_ids, {"segment_ids": segment_ids, "padding_mask": padding_mask}
        )
        outputs = run_backbone(self.backbone, inputs, training)
        return self.head(outputs["sequence_output"], training=training)  # [B, T, C]

    def tag(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[list[dict[str, Any]]]:
        """The entities of each text.

        Words are split at spaces and punctuation. Neighbours of one type are one
        entity; a `B-` begins another. Labels without `B-` and `I-` are joined where
        they are the same, and `O` is none.

        Args:
            texts: Any number of texts.
            batch_size: Parts of texts computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.

        Returns:
            A list a text of dicts: `label`, `text`, `start` and `end` in characters,
            and `score`, the mean over its words.
        """
        texts = check_texts(self, texts, "texts", "tag")
        rows = words_of_texts(self.tokenizer, texts)
        scored = self._scores(rows, batch_size, verbose)
        return [
            self._entities(text, words, scores)
            for text, words, scores in zip(texts, rows, scored, strict=True)
        ]

    def tag_words(
        self,
        sentences: Sequence[Sequence[str]],
        *,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[list[str]]:
        """The label of each word, for sentences that are split already.

        Args:
            sentences: Lists of words.
            batch_size: Parts of sentences computed at a time.
            verbose: Whether to show a progress bar; `"auto"` from 10 batches on.
        """
        sentences = check_texts(self, sentences, "sentences", "tag_words")
        rows = words_of_lists(self.tokenizer, sentences)
        return [
            [self.labels[place] for place in scores.argmax(axis=-1)]
            for scores in self._scores(rows, batch_size, verbose)
        ]

    def batches(
        self,
        sentences: Sequence[Sequence[str]],
        labels: Sequence[Sequence[Any]],
        *,
        batch_size: int = 32,
        shuffle: bool = True,
    ) -> PaddedBatches:
        """Sentences and their labels as batches for `fit` and `evaluate`.

        Args:
            sentences: Lists of words.
            labels: One a word: names or numbers.
            batch_size: Sentences at a time.
            shuffle: Whether they come in another order each epoch.
        """
        sentences = check_texts(self, sentences, "sentences", "batches")
        check_same_number(sentences=sentences, labels=labels)
        rows, targets = [], []
        for words, names in zip(
            words_of_lists(self.tokenizer, sentences), labels, strict=True
        ):
            check_same_number(words=words.spans, labels=names)
            wanted = label_ids(names, self.labels)
            for row, word_of in self._parts(words):
                rows.append(row)
                target = wanted[np.maximum(word_of, 0)] if len(wanted) else word_of
                targets.append(np.where(word_of >= 0, target, IGNORED))
        return PaddedBatches(
            rows,
            targets,
            per_token=True,
            batch_size=batch_size,
            shuffle=shuffle,
            padding=padding_of(self.tokenizer),
        )

    def _parts(self, words: Words):
        """Rows that fit, and the word of each token: -1 where none begins."""
        frame = frame_of(self.tokenizer)
        room = room_for(self, len(frame.before) + len(frame.after))
        begins = np.where(words.first_tokens(), words.word_of_token, -1)
        whole = Words(words.spans, words.token_ids, begins)
        for ids, word_of in windows(whole, room):
            around = ((len(frame.before), len(frame.after)),)
            yield frame.one(ids), np.pad(word_of, around, constant_values=-1)

    def _scores(self, texts: list[Words], batch_size, verbose) -> list[np.ndarray]:
        """Probabilities `[words, labels]` of each text.

        A word that the tokenizer has nothing for gets `O`, or the first label.
        """
        parts = [
            (number, *part)
            for number, words in enumerate(texts)
            for part in self._parts(words)
        ]
        nothing = np.zeros(len(self.labels), "float32")
        nothing[self.labels.index("O") if "O" in self.labels else 0] = 1.0
        answers = [np.tile(nothing, (len(words.spans), 1)) for words in texts]
        padding = padding_of(self.tokenizer)
        lengths = [len(row["token_ids"]) for _, row, _ in parts]
        for chosen in batches_by_length(lengths, batch_size, verbose):
            inputs = padded_rows([parts[i][1] for i in chosen], padding)
            logits = ops.convert_to_tensor(self.predict_on_batch(inputs))
            scores = ops.convert_to_numpy(probabilities(logits))  # [B, T, C]
            for place, index in enumerate(chosen):
                number, _, word_of = parts[index]
                (tokens,) = np.nonzero(word_of >= 0)
                answers[number][word_of[tokens]] = scores[place, tokens]
        return answers

    def _entities(self, text: str, words: Words, scores: np.ndarray) -> list[dict]:
        entities: list[dict[str, Any]] = []
        previous = None
        for place, (start, end) in enumerate(words.spans):
            name = self.labels[int(scores[place].argmax())]
            kind = name[2:] if name[:2] in {"B-", "I-"} else name
            if name == "O":
                previous = None
                continue
            if kind != previous or name.startswith("B-"):
                entities.append({"label": kind, "start": start, "scores": []})
            entities[-1]["end"] = end
            entities[-1]["scores"].append(float(scores[place].max()))
            previous = kind
        return [
            {
                "label": entity["label"],
                "text": text[entity["start"] : entity["end"]],
                "start": entity["start"],
                "end": entity["end"],
                "score": float(np.mean(entity["scores"])),
            }
            for entity in entities
        ]

    def compile_arguments(self) -> dict[str, Any]:
        """Loss and metrics for `compile`."""
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=IGNORED
        )
        return {"loss": loss}

    def get_config(self):
        config = {"labels": list(self.labels), "dropout": self.dropout}
        return {**parts_config(self, PARTS), **config}

    @classmethod
    def from_config(cls, config):
        return cls(**with_parts(config, PARTS))
