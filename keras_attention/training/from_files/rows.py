"""Rows of csv, tsv, jsonl, txt and conll files, one at a time."""

import csv
import functools
import gzip
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keras_attention.untrusted import clip, open_plain, parse_json


def rows_of_file(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a file of examples, one at a time.

    Args:
        path: A `.csv` or `.tsv` file with a line of column names (in csv a value may
            be quoted); a `.jsonl` file with one object per line; a `.txt` file with one
            `text` per line; or a `.conll` file with one word per line, whose last
            column is its tag, and an empty line after each sentence (columns `words`
            and `tags`). Each may be compressed as `.gz`.

    Yields:
        The number of the row's first line, and its values by the names of the columns.

    Raises:
        ValueError: If the file has no rows, or a row is damaged. It names the line.
    """
    path = Path(path)
    kind = (path.with_suffix("") if path.suffix == ".gz" else path).suffix
    if kind not in READERS:
        raise ValueError(
            f"The end of a file's name says how it is read: {', '.join(READERS)}, or "
            f"one of these and .gz. Received: {clip(path)}"
        )
    line, found = 0, False
    with open_plain(path) as raw:
        file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            for line, row in READERS[kind](lines):
                found = True
                yield line, row
        except (csv.Error, ValueError, EOFError, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{clip(path)} cannot be read after line {line}: {clip(error)}. Files "
                f"of examples are UTF-8. Received: {type(error).__name__}"
            ) from error
    if not found:
        raise ValueError(f"The file has no examples. Received: {clip(path)}")


def _csv(lines: Iterable[str], **form: Any) -> Iterator[Any]:
    reader = csv.reader(lines, strict=True, **form)
    names = next(reader, [])
    while True:
        line = reader.line_num + 1
        row = next(reader, None)
        if row is None:
            return
        if row and len(row) != len(names):
            raise ValueError(
                f"line {line} has {len(row)} columns, the first line names {len(names)}"
            )
        if row:
            yield line, dict(zip(names, row, strict=True))


def _jsonl(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = parse_json(line.encode(), f"line {number}")
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object {{…}}")
            yield number, row


def _txt(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, {"text": line.strip()}


def _conll(lines: Iterable[str]) -> Iterator[Any]:
    first, words, tags = 0, [], []
    for number, line in enumerate(itertools.chain(lines, [""]), 1):
        parts = line.split()
        if parts and parts[0] != "-DOCSTART-":
            if len(parts) < 2:
                raise ValueError(f"line {number} has a word without a tag")
            first = first or number
            words.append(parts[0])
            tags.append(parts[-1])
        elif words:
            yield first, {"words": words, "tags": tags}
            first, words, tags = 0, [], []


READERS = {
    ".csv": _csv,
    # By its definition (IANA), a quotation mark has no meaning in tsv.
    ".tsv": functools.partial(_csv, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": _jsonl,
    ".txt": _txt,
    ".conll": _conll,
}
