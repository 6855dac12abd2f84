"""Trains vocabularies on texts, by `tokenizers` and `sentencepiece`."""

import importlib
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from keras_attention.text.byte_pair.tokenizer import BytePairTokenizer
from keras_attention.text.sentence_piece.tokenizer import SentencePieceTokenizer
from keras_attention.text.wordpiece.tokenizer import WordPieceTokenizer

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END_TOKENS = ("<|endoftext|>",)


def train_word_piece(
    texts: Iterable[str],
    vocabulary_size: int,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    min_frequency: int = 2,
    max_length: int | None = 512,
    verbose: bool = False,
) -> WordPieceTokenizer:
    """Trains a WordPiece vocabulary on texts; returns a tokenizer like BERT's.

    Args:
        texts: The training texts, which are iterated over once.
        vocabulary_size: The largest number of tokens, with the special ones.
        lowercase: As in `WordPieceTokenizer`.
        strip_accents: As in `WordPieceTokenizer`.
        min_frequency: The number of times a pair must occur to become a token.
        max_length: As in `WordPieceTokenizer`.
        verbose: Whether to show a progress bar.

    Example:
    >>> tokenizer = train_word_piece(["hug pug pun bun hugs"] * 9, 30)
    >>> tokenizer.tokens(["hugs"])
    [['[CLS]', 'hugs', '[SEP]']]
    """
    library = _library("tokenizers")
    _check_size(vocabulary_size, len(BERT_TOKENS))
    learned = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]"))
    learned.normalizer = library.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    learned.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        special_tokens=list(BERT_TOKENS),
        show_progress=verbose,
    )
    learned.train_from_iterator(texts, trainer)
    return WordPieceTokenizer(
        _by_id(learned),
        lowercase=lowercase,
        strip_accents=strip_accents,
        max_length=max_length,
    )


def train_byte_pair(
    texts: Iterable[str],
    vocabulary_size: int,
    *,
    special_tokens: Sequence[str] = END_TOKENS,
    min_frequency: int = 2,
    max_length: int | None = None,
    verbose: bool = False,
) -> BytePairTokenizer:
    """Trains a byte-level BPE vocabulary on texts; returns a tokenizer like GPT-2's.

    Args:
        texts: The training texts, which are iterated over once.
        vocabulary_size: The largest number of tokens, with the 256 bytes and the
            special ones.
        special_tokens: The special tokens. The first one begins and ends texts and is
            used for padding.
        min_frequency: The number of times a pair must occur to become a token.
        max_length: As in `BytePairTokenizer`.
        verbose: Whether to show a progress bar.

    Example:
    >>> tokenizer = train_byte_pair(["hug pug pun bun hugs"] * 9, 262)
    >>> tokenizer.tokens(["hugs pug"])
    [['hug', 's', 'Ġp', 'ug']]
    """
    library = _library("tokenizers")
    _check_size(vocabulary_size, 256 + len(special_tokens))
    learned = library.Tokenizer(library.models.BPE())
    level = library.pre_tokenizers.ByteLevel
    learned.pre_tokenizer = level(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=level.alphabet(),
        show_progress=verbose,
    )
    learned.train_from_iterator(texts, trainer)
    merges = json.loads(learned.to_str())["model"]["merges"]
    merges = [m.split(" ") if isinstance(m, str) else m for m in merges]
    roles = ("bos", "eos", "unk") if special_tokens else ()
    return BytePairTokenizer(
        _by_id(learned),
        merges,
        special_tokens=dict.fromkeys(roles, next(iter(special_tokens), "")),
        added_tokens=list(special_tokens),
        max_length=max_length,
    )


def train_sentence_piece(
    texts: Iterable[str],
    vocabulary_size: int,
    *,
    kind: str = "unigram",
    byte_fallback: bool = False,
    max_length: int | None = None,
    verbose: bool = False,
    **options: Any,
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model on texts; returns a tokenizer with it.

    The tokenizer puts `</s>` after each text.

    Args:
        texts: The training texts, which are iterated over once.
        vocabulary_size: The number of pieces; fewer if the texts have fewer.
        kind: `"unigram"` or `"bpe"`.
        byte_fallback: Whether characters without a piece are encoded as bytes.
        max_length: As in `SentencePieceTokenizer`.
        verbose: Whether the library prints its progress.
        **options: Further arguments of
            `sentencepiece.SentencePieceTrainer.train`.

    Example:
    >>> tokenizer = train_sentence_piece(["hug pug pun bun hugs"] * 99, 20)
    >>> tokenizer.detokenize(tokenizer(["hugs pug"])["token_ids"]).numpy()
    array([b'hugs pug'], dtype=object)
    """
    library = _library("sentencepiece")
    if kind not in {"unigram", "bpe"}:
        raise ValueError(f"`kind` must be 'unigram' or 'bpe'. Received: kind={kind!r}")
    _check_size(vocabulary_size, 4)
    file = io.BytesIO()
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=vocabulary_size,
            model_type=kind,
            byte_fallback=byte_fallback,
            hard_vocab_limit=kind != "unigram",
            pad_id=3,
            minloglevel=0 if verbose else 2,
            **options,
        )
    except RuntimeError as error:
        raise ValueError(
            "sentencepiece could not train on these texts: give more of them, or "
            f"another `vocabulary_size`. Received: {vocabulary_size}, {error}"
        ) from error
    end = {"middle": ["</s>"], "end": ["</s>"]}
    return SentencePieceTokenizer(file.getvalue(), template=end, max_length=max_length)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Training a vocabulary needs {name}. Install it: pip install "
            f'"keras-attention-layers[train-tokenizer]". Received: no module {name}'
        ) from error


def _by_id(learned: Any) -> list[str]:
    ids = learned.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def _check_size(size: int, least: int) -> None:
    if size <= least:
        raise ValueError(
            f"`vocabulary_size` must be more than {least}, the number of tokens before "
            f"any is learned. Received: vocabulary_size={size}"
        )
