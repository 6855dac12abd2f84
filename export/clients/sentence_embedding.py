"""Sentence vectors without TensorFlow: sentence_embedding.py FOLDER TOKENIZER TEXT…

Needs numpy, onnxruntime and tokenizers. FOLDER is the ONNX artifact of a sentence
encoder, TOKENIZER its tokenizer.json, or the vocab.txt of an uncased BERT. Prints one
line of JSON per text, or with --similar the similarity of each text to the first.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from onnx_client import Artifact
from tokenizers import BertWordPieceTokenizer, Tokenizer


def load_tokenizer(path, length):
    """Returns a tokenizer that truncates at `length` and pads to the longest text."""
    if not Path(path).is_file():
        raise SystemExit(f"Expected a tokenizer.json or a vocab.txt. Received: {path}")
    if path.endswith(".json"):
        tokenizer = Tokenizer.from_file(path)
    else:
        tokenizer = BertWordPieceTokenizer(path, lowercase=True)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]") or 0)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("tokenizer")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--signature", default="embed_ids")
    parser.add_argument("--similar", action="store_true")
    given = parser.parse_args()
    model = Artifact(given.folder, given.signature)
    length = model.signature["max_lengths"]["sequence"]
    tokens = load_tokenizer(given.tokenizer, length).encode_batch(given.texts)
    ids = [one.ids for one in tokens]
    padding_mask = [one.attention_mask for one in tokens]
    outputs = model(token_ids=ids, padding_mask=padding_mask)
    vectors = outputs["sentence_embedding"]
    if given.similar:
        unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        for text, similarity in zip(given.texts, unit @ unit[0], strict=True):
            print(f"{similarity:.4f}  {text}")
    else:
        for vector in vectors:
            print(json.dumps(vector.tolist()))


if __name__ == "__main__":
    main()
