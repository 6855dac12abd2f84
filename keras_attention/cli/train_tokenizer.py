"""`keras-attention train-tokenizer`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from keras_attention.cli.console import (
    console,
    failing_clearly,
    json_option,
    print_json,
)

KINDS = {
    "word-piece": "train_word_piece",
    "byte-pair": "train_byte_pair",
    "sentence-piece": "train_sentence_piece",
}


def train_tokenizer(
    texts: Annotated[
        list[Path], typer.Argument(help="Text files (UTF-8), one text per line.")
    ],
    out: Annotated[Path, typer.Option(help="The tokenizer's folder.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")] = next(
        iter(KINDS)
    ),
    vocabulary_size: Annotated[int, typer.Option(min=1, help="Tokens in it.")] = 30_000,
    as_json: bool = json_option(),
) -> None:
    """Learn a vocabulary from texts and write a tokenizer's folder."""
    with failing_clearly(as_json):
        if kind not in KINDS:
            raise ValueError(f"--kind takes {', '.join(KINDS)}. Received: {kind}")
        from keras_attention.text import training

        train = getattr(training, KINDS[kind])
        tokenizer = train(_lines(texts), vocabulary_size, verbose=not as_json)
        tokenizer.save(out)
    result = {"folder": str(out), "vocabulary_size": tokenizer.vocabulary_size}
    if as_json:
        print_json(result)
    else:
        console.print(f"{result['vocabulary_size']} tokens, written to {out}")


def _lines(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            yield from (line.rstrip("\n") for line in lines)
