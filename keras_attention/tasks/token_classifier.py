"""Labels of words, such as named entities or parts of speech."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.blocks.heads import ClassificationHead
from keras_attention.tasks.base import BackboneTask
from keras_attention.tasks.batches import IGNORED, PaddedBatches
from keras_attention.tasks.common import (
    check_labels,
    check_same_number,
    check_texts,
    cross_entropy,
    label_ids,
)
from keras_attention.tasks.metrics import LabelledAccuracy
from keras_attention.tasks.words import (
    Words,
    frame_of,
    room_for,
    windows,
    words_of_lists,
    words_of_texts,
)


@keras.saving.register_keras_serializable("keras_attention")
class TokenClassifier(BackboneTask):
    """One label per word: a linear map of each token, read at a word's first token.

    With labels such as `O`, `B-person`, `I-person` (BIO), `tag` returns entities and
    their positions in the text. A text that is longer than the model is read in parts.

    Reference: Devlin et al., 2018 (arXiv:1810.04805), section 5.3.

    Args:
        backbone: A `BertEncoder`, or another encoder of this library.
        labels: The names of the classes, in the order of the logits.
        tokenizer: The backbone's tokenizer, or `None`. `tag`, `tag_words` and
            `batches` need it.
        dropout: The dropout rate in the head.
        **kwargs: The arguments of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        token_ids: Int `[B, T]`, or a dict of all inputs.
        segment_ids: Int `[B, T]`, if the backbone takes them.
        padding_mask: Bool or 0 / 1 `[B, T]`, `True` at non-padding tokens.
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

    SETTINGS = ("labels", "dropout")

    def __init__(
        self,
        backbone: keras.Model,
        labels: Sequence[str],
        tokenizer: Any = None,
        *,
        dropout: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(backbone, tokenizer, **kwargs)
        self.labels = check_labels(labels)
        self.dropout = dropout
        self._add_head(ClassificationHead, len(self.labels), dropout=dropout)

    def tag(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        verbose: bool | str = "auto",
    ) -> list[list[dict[str, Any]]]:
        """Returns the entities of each text.

        Words are split at spaces and punctuation. Neighbouring words of one type are
        one entity; a `B-` begins a new one. If labels have no `B-` and `I-`,
        neighbouring words with the same label are one entity. Words labelled `O` are
        in no entity.

        Args:
            texts: Any number of texts.
            batch_size: The number of parts of texts that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.

        Returns:
            A list of dicts per text: `label`, `text`, `start` and `end` in characters,
            and `score`, the mean over the entity's words.
        """
        texts = check_texts(self, texts, "texts", "tag")
        rows = words_of_texts(self.tokenizer, texts)
        scored = self._word_scores(rows, batch_size, verbose)
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
        """Returns the label of each word, for sentences that are already split.

        Args:
            sentences: The lists of words.
            batch_size: The number of parts of sentences that are computed together.
            verbose: Whether to show a progress bar; `"auto"` shows it from 10 batches
                on.
        """
        sentences = check_texts(self, sentences, "sentences", "tag_words")
        rows = words_of_lists(self.tokenizer, sentences)
        return [
            [self.labels[number] for number in scores.argmax(axis=-1)]
            for scores in self._word_scores(rows, batch_size, verbose)
        ]

    def batches(
        self,
        sentences: Sequence[Sequence[str]],
        labels: Sequence[Sequence[Any]],
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> PaddedBatches:
        """Returns sentences and their labels as batches for `fit` and `evaluate`.

        Args:
            sentences: The lists of words.
            labels: One label per word, by name or by number.
            batch_size: The number of sentences per batch.
            shuffle: Whether the order of the sentences changes each epoch.
            seed: The seed of the order.
            pad_to_multiple_of: The number whose multiples the lengths of batches are.
                When `None`, they are a few lengths, 4 between two powers of 2, so that
                XLA compiles few shapes; 1 pads to the longest row only.
        """
        sentences = check_texts(self, sentences, "sentences", "batches")
        check_same_number(sentences=sentences, labels=labels)
        rows, targets = [], []
        for words, names in zip(
            words_of_lists(self.tokenizer, sentences), labels, strict=True
        ):
            check_same_number(words=words.spans, labels=names)
            expected = label_ids(names, self.labels)
            for row, word_of in self._parts(words):
                rows.append(row)
                target = expected[np.maximum(word_of, 0)] if len(expected) else word_of
                targets.append(np.where(word_of >= 0, target, IGNORED))
        return self._padded_batches(
            rows,
            targets,
            per_token=True,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            multiple=pad_to_multiple_of,
        )

    def _parts(self, words: Words):
        """Yields rows that fit, and the word that begins at each token, or -1."""
        frame = frame_of(self.tokenizer)
        room = room_for(self, len(frame.before) + len(frame.after))
        begins = np.where(words.first_tokens(), words.word_of_token, -1)
        whole = Words(words.spans, words.token_ids, begins)
        for ids, word_of in windows(whole, room):
            around = ((len(frame.before), len(frame.after)),)
            yield frame.one(ids), np.pad(word_of, around, constant_values=-1)

    def _word_scores(self, texts: list[Words], batch_size, verbose) -> list[np.ndarray]:
        """Returns the probabilities `[words, labels]` of each text.

        A word without any token gets the label `O`, or the first label.
        """
        parts = [
            (number, *part)
            for number, words in enumerate(texts)
            for part in self._parts(words)
        ]
        nothing = np.zeros(len(self.labels), "float32")
        nothing[self.labels.index("O") if "O" in self.labels else 0] = 1.0
        answers = [np.tile(nothing, (len(words.spans), 1)) for words in texts]
        rows = [row for _, row, _ in parts]
        for chosen, _, logits in self._predict(rows, batch_size, verbose):
            scores = self.scores(ops.convert_to_tensor(logits))
            scores = ops.convert_to_numpy(scores)  # [B, T, C]
            for row, index in enumerate(chosen):
                number, _, word_of = parts[index]
                (tokens,) = np.nonzero(word_of >= 0)
                answers[number][word_of[tokens]] = scores[row, tokens]
        return answers

    def _entities(self, text: str, words: Words, scores: np.ndarray) -> list[dict]:
        entities: list[dict[str, Any]] = []
        previous = None
        for (start, end), of_word in zip(words.spans, scores, strict=True):
            name = self.labels[int(of_word.argmax())]
            kind = name[2:] if name[:2] in {"B-", "I-"} else name
            if name == "O":
                previous = None
                continue
            if kind != previous or name.startswith("B-"):
                entities.append({"label": kind, "start": start, "scores": []})
            entities[-1]["end"] = end
            entities[-1]["scores"].append(float(of_word.max()))
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
        """Returns the loss and the metrics; only first tokens of words count."""
        return {"loss": cross_entropy(IGNORED), "metrics": [LabelledAccuracy()]}
