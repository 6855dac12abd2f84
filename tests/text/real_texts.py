"""Real texts of several languages, from the folder of KERAS_ATTENTION_DATA."""

import gzip
import json
import os
import pathlib

import pytest


def data_folder(*names):
    """Returns that folder if it has all of these folders; else skips the test."""
    root = pathlib.Path(os.environ.get("KERAS_ATTENTION_DATA", "nowhere"))
    missing = [name for name in names if not (root / name).is_dir()]
    if missing:
        pytest.skip(f"KERAS_ATTENTION_DATA names no folder with {', '.join(missing)}/")
    return root


def read(file):
    """Returns the text of a gzip file."""
    return gzip.decompress(file.read_bytes()).decode()


def sentences():
    """Returns 40,000 short ones, English and French, with accents and odd spaces."""
    lines = read(data_folder("tatoeba_en_fr") / "tatoeba_en_fr" / "fra.txt.gz")
    pairs = (line.split("\t")[:2] for line in lines.split("\n")[:20_000])
    return [text for pair in pairs for text in pair]


def paragraphs():
    """Returns English and German paragraphs of encyclopedias, and questions."""
    root = data_folder("wikitext2_valid_test", "xquad")
    texts = read(root / "wikitext2_valid_test" / "valid.txt.gz").split("\n")
    for language in ("de", "en"):
        found = json.loads(read(root / "xquad" / f"xquad.{language}.json.gz"))
        for article in found["data"]:
            for paragraph in article["paragraphs"]:
                texts.append(paragraph["context"])
                texts += [one["question"] for one in paragraph["qas"]]
    return texts
