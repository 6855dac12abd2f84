"""Tokenizers compared with `tokenizers` and `sentencepiece`: same texts, same ids.

WordPiece has BERT's vocabulary; the others learn one from the sentences themselves.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import corpus
from benchmarks.measure import Progress, Row, Settings, compare, take_turns

VOCABULARY_SIZE = 4000
LONGEST = 512


def run(settings: Settings, progress: Progress) -> list[Row]:
    texts = corpus.sentences(settings.data, 512)
    rows = []
    for kind, ours, name, peer in _pairs(settings, progress):
        for size in (512, 32, 1):
            some = texts[:size]
            batch = ours(some)
            tokens = batch["token_ids"].numpy()[batch["padding_mask"].numpy() > 0]
            np.testing.assert_array_equal(tokens, np.concatenate(peer(some)))
            progress(f"{kind}, {size} sentences")
            calls = {
                "ours": lambda ours=ours, some=some: ours(some)["token_ids"].numpy(),
                name: lambda peer=peer, some=some: peer(some),
            }
            samples = take_turns(calls, settings, progress)
            case = f"{kind}, {size} at once"
            row = compare("tokenizer", case, samples, *calls, per=size, unit="/s")
            rows.append(row)
    return rows


def _pairs(settings, progress):
    """Yields `(kind, ours, name of the peer, peer)`; a peer maps texts to ids."""
    import keras_attention as ka

    folder = corpus.minilm_folder()
    yield "WordPiece", ka.from_pretrained(folder).tokenizer, *_tokenizers(folder)
    lines = corpus.sentences(settings.data, 100_000)
    with tempfile.TemporaryDirectory() as name:
        progress("learning a vocabulary of byte pairs")
        ours = ka.train_byte_pair(lines, VOCABULARY_SIZE, max_length=LONGEST)
        ours.save(name)
        yield "byte-level BPE", ours, *_tokenizers(Path(name))
    with tempfile.TemporaryDirectory() as name:
        progress("learning a vocabulary of unigrams")
        ours = ka.train_sentence_piece(lines, VOCABULARY_SIZE, max_length=LONGEST)
        ours.save(name)
        yield "unigram", ours, *_sentence_piece(Path(name), settings.threads)


def _tokenizers(folder):
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(LONGEST)
    return "HF tokenizers", lambda texts: [x.ids for x in theirs.encode_batch(texts)]


def _sentence_piece(folder, threads):
    from sentencepiece import SentencePieceProcessor

    theirs = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    options = {"add_eos": True, "num_threads": threads}
    return "sentencepiece", lambda texts: theirs.encode(texts, **options)
