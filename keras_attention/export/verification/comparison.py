"""Compares artifacts on real texts: exactness, speed, size, and which to choose."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.folders import artifact_folder
from keras_attention.export.runtimes.base import Runner
from keras_attention.export.runtimes.opening import open_artifact
from keras_attention.export.verification.agreement import Agreement, agreement

MIN_COSINE, MIN_SAME, MAX_PERPLEXITY = 0.999, 0.985, 1.01
_MASKS = ("padding_mask", "attention_mask")
_IDS = ("token_ids", "input_ids")


@dataclass(frozen=True)
class Candidate:
    """One artifact in one runtime.

    Attributes:
        name: `PATH`, or `PATH@RUNTIME`.
        runtime: The runtime that ran it.
        bytes: The size of its model files.
        texts_per_second: The median over the rounds, tokenizing included.
        speed: The texts per second relative to the reference's.
        agreements: One per output.
    """

    name: str
    runtime: str
    bytes: int
    texts_per_second: float
    speed: float
    agreements: tuple[Agreement, ...]

    @property
    def is_close(self) -> bool:
        """Whether it can replace the reference.

        The worst cosine is 0.999 or more, 98.5 % or more of the decisions are the same,
        and the perplexity is at most 1.01 times the reference's.
        """
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it cannot replace the reference; none if it can."""
        return tuple(reason for one in self.agreements for reason in _reasons(one))


def _reasons(one: Agreement) -> Iterator[str]:
    if not one.worst_cosine >= MIN_COSINE:
        yield f"worst cosine {one.worst_cosine:.5f} is below {MIN_COSINE}"
    if not one.same >= MIN_SAME:
        yield f"{one.same:.1%} the same {one.decision} is below {MIN_SAME:.1%}"
    most = MAX_PERPLEXITY * (one.reference_perplexity or 1.0)
    if not (one.perplexity or 1.0) <= most:
        yield f"perplexity {one.perplexity:.3f} is above {most:.3f}"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_artifacts`.

    Attributes:
        candidates: The artifacts, the reference first.
        num_texts: The number of texts that each was run on.
    """

    candidates: tuple[Candidate, ...]
    num_texts: int

    @property
    def recommended(self) -> Candidate:
        """The fastest candidate that is close enough to the reference."""
        close = [one for one in self.candidates if one.is_close]
        return max(close, key=lambda one: one.texts_per_second)


def compare_artifacts(
    artifacts: Sequence[str | Path],
    texts: Sequence[str],
    tokenizer: Any = None,
    *,
    signature: str | None = None,
    batch_size: int = 32,
    rounds: int = 5,
    intra_op_threads: int = 0,
    allow_unverified: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Runs artifacts on the same texts, in turn, and measures how they differ.

    Args:
        artifacts: The artifacts, the reference first. `PATH`, or `PATH@RUNTIME` with a
            runtime of `open_artifact`, e.g. `"minilm-onnx@openvino-bfloat16"`.
        texts: Real texts, as many as possible: 500 are needed to see one percent.
        tokenizer: Called with texts; returns `token_ids` and `padding_mask`. For
            artifacts that take ids.
        signature: The signature to run, if an artifact has several.
        batch_size: The number of texts per batch. Texts of similar length share one.
        rounds: The number of times that each artifact is run on all texts.
        intra_op_threads: The threads of each runtime; default: all cores.
        allow_unverified: See `open_artifact`.
        on_progress: Called with a text that says what is being done now.
    """
    if not texts or not artifacts:
        raise ValueError(
            "There is nothing to compare. Expected at least one artifact and one text. "
            f"Received: {len(artifacts)} artifacts, {len(texts)} texts"
        )
    batches = _batches(texts, batch_size)
    progress = on_progress or (lambda stage: None)
    with contextlib.ExitStack() as opened:
        calls: dict[str, _Call] = {}
        folders: dict[str, Path] = {}
        for name in map(str, artifacts):
            path, _, runtime = name.partition("@")
            folders[name] = artifact_folder(path)
            runner = open_artifact(
                folders[name],
                signature,
                intra_op_threads=intra_op_threads,
                runtime=runtime or None,
                allow_unverified=allow_unverified,
            )
            calls[name] = _Call(opened.enter_context(runner), signature, tokenizer)
        answers, seconds = _in_turn(calls, batches, rounds, progress)
    found = []
    reference = next(iter(calls))
    first = float(np.median(np.sum(seconds[reference], axis=1)))
    for name, one in calls.items():
        median = float(np.median(np.sum(seconds[name], axis=1)))
        found.append(
            Candidate(
                name,
                one.runner.runtime,
                _size(folders[name]),
                len(texts) / median,
                first / median,
                _agreements(answers[reference], answers[name], one.feeds),
            )
        )
    return Comparison(tuple(found), len(texts))


def feeds_of_texts(
    texts: Sequence[str],
    tokenizer: Any,
    inputs: Mapping[str, TensorInfo],
    *,
    batch_size: int = 32,
) -> list[dict[str, Any]]:
    """Turns texts into inputs of a signature, one dict per batch of similar length.

    Args:
        texts: The texts to tokenize.
        tokenizer: Called with texts; returns `token_ids` and `padding_mask`.
        inputs: Name to `TensorInfo`, `runner.signatures[…].inputs`. The names are
            those of the tokenizer or Optimum's (`input_ids`, `attention_mask`,
            `position_ids`, an empty `past_key_values`).
        batch_size: The number of texts per batch.
    """
    return [_feed(batch, tokenizer, inputs) for batch in _batches(texts, batch_size)]


class _Call:
    """Runs one signature of a runner on texts."""

    def __init__(self, runner: Runner, signature: str | None, tokenizer: Any):
        self.runner = runner
        self.signature = signature or next(iter(runner.signatures))
        if signature is None and len(runner.signatures) > 1:
            names = ", ".join(runner.signatures)
            raise ValueError(
                f"Which of the signatures {names} is meant? Give `signature`. "
                "Received: signature=None"
            )
        info = runner.signatures[self.signature]
        self.inputs = info.inputs
        self.outputs = [
            name
            for name, tensor in info.outputs.items()
            if tensor.dtype == "float32" and not name.startswith("present")
        ]
        self.tokenizer = tokenizer
        self.feeds: list[dict[str, Any]] = []  # the inputs that were recorded

    def __call__(self, texts, *, record=False):
        feed = _feed(texts, self.tokenizer, self.inputs)
        if record:
            self.feeds.append(feed)
        found = self.runner.run(self.signature, **feed)
        return {name: found[name] for name in self.outputs}


def _feed(texts, tokenizer, inputs):
    if list(inputs) == ["text"]:
        return {"text": list(texts)}
    if tokenizer is None:
        raise ValueError(
            "The artifact takes ids, not texts: give `tokenizer`, e.g. "
            f"`ka.load_tokenizer(folder)`. Received: inputs {sorted(inputs)}"
        )
    given = {name: np.asarray(value) for name, value in tokenizer(texts).items()}
    ids, mask = given["token_ids"], np.asarray(given["padding_mask"], bool)
    given |= dict.fromkeys(_IDS, ids) | dict.fromkeys(_MASKS, mask)
    given["position_ids"] = np.maximum(mask.cumsum(-1) - 1, 0)
    fed = {}
    for name, info in inputs.items():
        dtype = np.dtype(info.dtype)
        if name.startswith("past"):
            shape = [size if isinstance(size, int) else 0 for size in info.shape]
            fed[name] = np.zeros([len(texts), *shape[1:]], dtype)
        elif name in given:
            fed[name] = given[name].astype(dtype)
        else:
            raise ValueError(
                "The tokenizer does not return what the artifact takes. Expected: "
                f"{sorted(inputs)}. Received: {sorted(given)}"
            )
    return fed


def _batches(texts, size):
    texts = sorted(texts, key=len)
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _in_turn(calls, batches, rounds, progress):
    """All answers, and the seconds `[rounds, batches]` of each, in a random order."""
    answers = {name: [] for name in calls}
    seconds = {name: np.zeros((rounds, len(batches))) for name in calls}
    random = np.random.default_rng(0)
    for number, batch in enumerate(batches):
        progress(f"Batch {number + 1} of {len(batches)}")
        for name, call in calls.items():  # also warms up
            answers[name].append(call(batch, record=True))
        for turn in range(rounds):
            for name in random.permutation(list(calls)):
                start = time.perf_counter()
                calls[name](batch)
                seconds[name][turn, number] = time.perf_counter() - start
    return answers, seconds


def _agreements(expected, got, feeds):
    common = [name for name in expected[0] if name in got[0]]
    if not common:
        raise ValueError(
            "The artifacts have no output in common. Expected: "
            f"{sorted(expected[0])}. Received: {sorted(got[0])}"
        )
    ids = next(([f[n] for f in feeds] for n in _IDS if n in feeds[0]), None)
    masks = next(([f[n] for f in feeds] for n in _MASKS if n in feeds[0]), None)
    return tuple(
        agreement(
            name,
            [one[name] for one in expected],
            [one[name] for one in got],
            ids,
            masks,
        )
        for name in common
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(
        one.stat().st_size
        for one in files
        if one.is_file() and one.name not in {"verification.npz", "manifest.json"}
    )
