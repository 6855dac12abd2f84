"""Tokenizers compared with `tokenizers` and `sentencepiece`: same texts, same ids.

WordPiece has BERT's vocabulary; the others learn one from the sentences themselves.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import corpus
from benchmarks.measure import Progress, Row, Settings, compare, take_turns

VOCABULARY_SIZE = 4000
LONGEST = 512


def run(settings: Settings, progress: Progress) -> list[Row]:
    import tensorflow as tf

    texts = corpus.sentences(settings.data, 512)
    rows = []
    for kind, ours, name, peer in _pairs(settings, progress):
        for size in (512, 32, 1):
            some = texts[:size]
            batch = ours(tf.constant(some))
            tokens = batch["token_ids"].numpy()[batch["padding_mask"].numpy() > 0]
            np.testing.assert_array_equal(tokens, np.concatenate(peer(some)))
            progress(f"{kind}, {size} sentences")
            given = {"": some, " in the graph": tf.constant(some)}  # a tensor
            for where, texts_given in given.items():
                calls = {
                    "ours": lambda ours=ours, x=texts_given: ours(x)[
                        "token_ids"
                    ].numpy(),
                    name: lambda peer=peer, some=some: peer(some),
                }
                samples = take_turns(calls, settings, progress)
                case = f"{kind}, {size} at once{where}"
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
    yield "unigram of tokenizers", *_unigram(lines, progress)
    with tempfile.TemporaryDirectory() as name:
        progress("learning a vocabulary of unigrams")
        ours = ka.train_sentence_piece(lines, VOCABULARY_SIZE, max_length=LONGEST)
        ours.save(name)
        yield "unigram", ours, *_sentence_piece(Path(name), settings.threads)


def _unigram(lines, progress):
    """Returns our tokenizer of a Unigram model of the crate, its name, and the peer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    import keras_attention as ka

    progress("learning a vocabulary of unigrams with tokenizers")
    theirs = Tokenizer(models.Unigram())
    theirs.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    theirs.train_from_iterator(lines[:20_000], trainer)
    ours = ka.PipelineTokenizer(json.loads(theirs.to_str()))
    name = "HF tokenizers"
    return ours, name, lambda texts: [x.ids for x in theirs.encode_batch(texts)]


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
