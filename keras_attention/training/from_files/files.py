"""Examples in files: read row by row, checked, and kept on disk while training."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.tasks.batches import IGNORED, PaddedBatches
from keras_attention.training.from_files.rows import rows_of_file
from keras_attention.training.from_files.stored import StoredArrays, StoredRows
from keras_attention.untrusted import clip, show

# The argument of a task's `batches` -> the column of a file.
COLUMNS = {
    "texts": "text",
    "labels": "label",
    "texts_pair": "text_pair",
    "scores": "score",
    "sentences": "words",
    "questions": "question",
    "contexts": "context",
    "answers": "answer",
    "next_texts": "next_text",
    "follows": "follows",
    "sources": "source",
    "targets": "target",
}
_CHUNK = 1000  # examples that are tokenized together
_MOST_LABELS = 1000


class FileExamples:
    """The examples of a task in files; each iteration reads the files anew.

    It yields the place of each example, for errors, and its values, in the order of
    the arguments of the task's `batches`.

    Args:
        task: The class of the task, or a task.
        files: One or more files; see `rows_of_file`.
        columns: The column of a file that is meant, by the usual name: `{"text":
            "review", "label": "stars"}`.
        share: Which examples are read: from and to, as parts of 1. The examples are
            drawn at random, the same each time.
    """

    def __init__(
        self,
        task: Any,
        files: str | Path | Sequence[str | Path],
        columns: Mapping[str, str] | None = None,
        share: tuple[float, float] = (0.0, 1.0),
    ):
        given = [files] if isinstance(files, str | Path) else files
        self.task, self.files, self.share = task, [Path(x) for x in given], share
        parameters = inspect.signature(task.batches).parameters.values()
        kinds = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.arguments = {
            p.name: p.default is p.empty for p in kinds if p.name != "self"
        }
        if not set(self.arguments) <= set(COLUMNS):
            raise ValueError(
                "Examples of this task are not read from files of text. "
                f"Received: {task!r} with {', '.join(self.arguments)}"
            )
        self.columns = {name: COLUMNS[name] for name in self.arguments}
        if "sentences" in self.columns:
            self.columns["labels"] = "tags"
        unknown = set(columns or {}) - {*self.columns.values()}
        if unknown:
            raise ValueError(
                f"`columns` renames {', '.join(self.columns.values())}. "
                f"Received: {', '.join(map(show, unknown))}"
            )
        self.renamed = dict(columns or {})

    def __iter__(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        random, given = np.random.default_rng(0), set()
        for path in self.files:
            for line, row in rows_of_file(path):
                if self.share[0] <= random.random() < self.share[1]:
                    given = given or set(row)  # optional columns: in all rows or none
                    place = f"{clip(path)}, line {line}"
                    yield place, self._values(row, place, given)

    def _values(self, row, place, given):
        values = []
        for argument, required in self.arguments.items():
            column = self.columns[argument]
            name = self.renamed.get(column, column)
            if name not in row:
                if not required and name not in given:
                    continue
                raise ValueError(
                    f"{place}: there is no column {name!r}. Name it in the file, or "
                    f"say which one it is: columns={{{column!r}: …}}. Received: "
                    f"columns {', '.join(map(show, [*row][:8]))}"
                )
            try:
                convert = CONVERTED.get(argument, _text)
                value = convert(row[name], row, self.task)
            except (ValueError, TypeError, LookupError) as error:
                raise ValueError(
                    f"{place}: the column {name!r} has a wrong value: {clip(error)}. "
                    f"Received: {show(row[name])}"
                ) from error
            values.append(value)
        return tuple(values)


def _text(value, row, task):
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty was expected")
    return value


def _labels(value, row, task):
    """Returns labels by name, or by number if there is no such name."""
    names = getattr(task, "labels", ())
    names = names if isinstance(names, tuple) else ()
    several = getattr(task, "multi_label", False) is True
    if several and isinstance(value, str):
        value = [name for name in value.split("|") if name]
    if several or "sentences" in inspect.signature(task.batches).parameters:
        if not isinstance(value, list):
            raise ValueError("a list of labels was expected")
        return [_label(one, names) for one in value]
    return _label(value, names)


def _label(value, names):
    if not isinstance(value, str | int) or value == "":
        raise ValueError("a label was expected, by name or by number")
    name = str(value)
    return int(name) if names and name not in names and name.isdecimal() else name


def _truth(value, row, task):
    return {"0": False, "1": True, "false": False, "true": True}[str(value).lower()]


def _answer(value, row, task):
    """Returns the answer with its start, which is searched if no column has it."""
    if not value:
        return None
    value = value if isinstance(value, dict) else {"text": value}
    if not isinstance(value["text"], str):
        raise ValueError("the text of an answer was expected")
    start = value.get("start", row.get("answer_start", ""))
    at = row["context"].index(value["text"]) if start in ("", None) else int(start)
    return {"text": value["text"], "start": at}


def _words(value, row, task):
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise ValueError("a list of words was expected")
    return value


CONVERTED = {
    "labels": _labels,
    "scores": lambda value, row, task: float(value),
    "follows": _truth,
    "answers": _answer,
    "sentences": _words,
}


def labels_in(examples: FileExamples) -> list[str]:
    """Returns the names of all labels in files, sorted; `O` is the first.

    Args:
        examples: The examples of a task with labels.
    """
    found: set[str] = set()
    at = [*examples.arguments].index("labels")
    for place, values in examples:
        labels = values[at] if isinstance(values[at], list) else [values[at]]
        found.update(map(str, labels))
        if len(found) > _MOST_LABELS:
            raise ValueError(
                f"{place}: there are more than {_MOST_LABELS} different labels. Is "
                f"this the column of the labels? Received: {show(values[at])}"
            )
    _check_classes(found)
    numbers = all(name.isdecimal() for name in found)
    return sorted(found, key=lambda x: (x != "O", int(x) if numbers else 0, x))


def _check_classes(found: Iterable[Any]) -> None:
    if len(set(found)) < 2:
        raise ValueError(
            "All examples have the same label, so there is nothing to learn. "
            f"Received: {', '.join(map(show, found)) or 'no label'}"
        )


def file_batches(
    model: Any,
    files: str | Path | Sequence[str | Path] | FileExamples,
    *,
    columns: Mapping[str, str] | None = None,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
    pad_to_multiple_of: int | None = None,
    packing: bool = False,
    folder: str | Path | None = None,
) -> PaddedBatches:
    """Returns the examples in files as batches, as `model.batches` does of lists.

    The files are read and tokenized once, a thousand examples at a time, into a
    temporary file of 4 to 12 bytes per token. Memory holds about 140 bytes per example.

    Args:
        model: A task with a tokenizer.
        files: One or more files: csv, tsv, jsonl, txt or conll, also with `.gz`, as
            docs/tasks.md describes them.
        columns: The column of a file that is meant, by the usual name: `{"text":
            "review", "label": "stars"}`.
        batch_size: The number of examples per batch.
        shuffle: Whether the order of the examples changes each epoch.
        seed: The seed of the order.
        pad_to_multiple_of: As in `model.batches`.
        packing: Whether short texts share rows, as in `CausalLM.batches`.
        folder: Where the temporary file is; the system's folder when `None`.

    Returns:
        The batches. Their `num_full` is the number of rows that are as long as the
        tokenizer allows; if the task reads long texts in one part, these were cut.

    Raises:
        ValueError: If an example is wrong. It names the file, the line and the column.

    Example:
    ```python
    batches = ka.file_batches(model, "train.csv", batch_size=16)
    ka.fine_tune(model, batches, validation=ka.file_batches(model, "test.csv"))
    ```
    """
    if isinstance(files, FileExamples):
        examples = files
    else:
        examples = FileExamples(model, files, columns)
    settings = {
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": seed,
        "pad_to_multiple_of": pad_to_multiple_of,
        **({"packing": True} if packing else {}),
    }
    if packing and "packing" not in inspect.signature(model.batches).parameters:
        raise ValueError(
            "Only language models read several texts in one row. "
            f"Received: packing=True, {type(model).__name__}"
        )
    first, rows, targets, seen = None, StoredRows(folder), StoredArrays(folder), set()
    limit, num_full = getattr(model.tokenizer, "max_length", None), 0
    for chunk in _chunks(examples):
        part = _batches_of(model, chunk, settings)
        first = first or part
        for row in part.rows:
            rows.append(row)
            num_full += len(row["token_ids"]) == limit
        for target in part.targets:
            targets.append(np.asarray(target))
        if "labels" in examples.arguments:
            seen.update(np.unique(np.concatenate([*map(np.atleast_1d, part.targets)])))
    if first is None:
        raise ValueError(
            "No example was chosen from the files: there are too few. Received: "
            f"{len(examples.files)} files, of which {examples.share} is read"
        )
    if shuffle and "labels" in examples.arguments:
        _check_classes(seen - {IGNORED})
    found = first.with_rows(rows, targets)
    found.num_full = num_full
    return found


def _chunks(examples: Iterable[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for one in examples:
        chunk.append(one)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _batches_of(model, chunk, settings):
    """Returns examples as batches; an error names the place of the wrong example."""
    try:
        columns = zip(*(values for _, values in chunk), strict=True)
        return model.batches(*map(list, columns), **settings)
    except ValueError as error:
        if len(chunk) == 1:
            raise ValueError(f"{chunk[0][0]}: {clip(error, 1500)}") from error
        half = len(chunk) // 2
        for part in (chunk[:half], chunk[half:]):
            _batches_of(model, part, settings)
        raise
