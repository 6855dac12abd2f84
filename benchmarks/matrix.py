"""A table of every model, signature and runtime: the largest error, or why none.

`python -m benchmarks.matrix` prints it; `--write` writes it to docs/matrix.md. Models
are small and have random weights; each cell is the whole grid of the verification.
"""

import importlib.util
import inspect
import re
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

DOCS = Path(__file__).parent.parent / "docs" / "matrix.md"
RUNTIMES = {
    "session": ("saved_model", None, None),
    "ONNX 23": ("onnx", 23, "onnxruntime"),
    "ONNX 18": ("onnx", 18, "onnxruntime"),
    "OpenVINO": ("onnx", 23, "openvino"),
    "LiteRT": ("litert", None, None),
}
TOLERANCE = 1e-5
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
LLAMA = {
    "position": "rotary",
    "normalization": "rms",
    "activation": "silu",
    "gated": True,
    "use_bias": False,
    "num_key_value_heads": 1,
    "head": "own",
}
LONGEST = 64
console = Console(stderr=True, highlight=False)


def main(
    write: Annotated[
        bool, typer.Option("--write", help=f"Write the table to {DOCS.name}.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="A model; repeatable.")] = None,
) -> None:
    """Export every model to every format and verify it in every runtime."""
    from keras_attention.cli.console import start_tensorflow

    if write and only:
        raise typer.BadParameter(
            "--write replaces the whole page, so it needs all models. Omit --only, or "
            f"copy the printed rows to {DOCS.name}. Received: --only {' '.join(only)}"
        )
    start_tensorflow()
    rows, reasons = [], {}
    makers = {name: make for name, make in models().items() if not only or name in only}
    with console.status("…") as status:
        for number, (name, make) in enumerate(makers.items(), 1):
            for signature, cells in _cells(make(), status.update, name):
                shown = [_shown(cell, reasons) for cell in cells.values()]
                rows.append((name, signature, *shown))
                console.print(f"{number}/{len(makers)} {' | '.join(rows[-1])}")
    text = _markdown(rows, reasons)
    print(text)
    if write:
        DOCS.write_text(text, encoding="utf-8")
        console.print(f"Written: {DOCS}")
    if any("✗" in cell for row in rows for cell in row):
        raise typer.Exit(1)


def models() -> dict[str, Callable[[], Any]]:
    """Returns the models of the table: name -> function that builds the model."""
    import keras

    import keras_attention as ka

    def bert(**changes):
        return ka.BertEncoder(
            _tokens(), **SIZES, max_sequence_length=LONGEST, **changes
        )

    def gpt(**changes):
        sizes = {**SIZES, "max_sequence_length": LONGEST}
        return ka.GPTDecoder(_tokens(), **sizes, **changes)

    def pair(kind, **changes):
        return kind(_tokens(), **SIZES, **changes)

    def t5():  # with the head size of the others; its default is 64
        return pair(ka.T5EncoderDecoder, head_dim=8)

    def keras_layers():
        query = keras.Input((None, 16), name="query")
        y = keras.layers.MultiHeadAttention(2, 8)(query, query)
        y = keras.layers.LayerNormalization()(query + y)
        return keras.Model(query, keras.layers.Dense(5, activation="gelu")(y))

    words, pieces = _tokenizer, _byte_pairs
    vit = {"image_size": (8, 8), "patch_size": 4, **SIZES}
    labels = ["one", "two", "three"]
    found = {
        "BertEncoder": bert,
        "SentenceEncoder": lambda: ka.SentenceEncoder(bert(), words()),
        **_text_tasks(bert, labels),
        "GPTDecoder, Llama's shape": lambda: gpt(**LLAMA),
        "CausalLM, GPT-2's shape": lambda: ka.CausalLM(gpt(), pieces()),
        "CausalLM, Llama's shape": lambda: ka.CausalLM(gpt(**LLAMA), pieces()),
        "Seq2SeqTransformer": lambda: pair(ka.Seq2SeqTransformer),
        "T5EncoderDecoder": t5,
        "T5Encoder": lambda: pair(ka.T5Encoder, head_dim=8),
        "Seq2SeqFeatures": lambda: ka.Seq2SeqFeatures(t5(), start_token_id=0),
        "RecurrentSeq2Seq": lambda: ka.RecurrentSeq2Seq(_tokens(), 8, 16),
        "Seq2SeqLM, BART's shape": lambda: ka.Seq2SeqLM(
            pair(ka.Seq2SeqTransformer), pieces(), start_token_id=2
        ),
        "Seq2SeqLM, T5": lambda: ka.Seq2SeqLM(t5(), pieces(), start_token_id=0),
        "Seq2SeqLM, recurrent": lambda: ka.Seq2SeqLM(
            ka.RecurrentSeq2Seq(_tokens(), 8, 16), pieces(), start_token_id=0
        ),
        "VisionTransformer": lambda: ka.VisionTransformer(**vit),
        "ImageClassifier": lambda: ka.ImageClassifier(
            ka.VisionTransformer(**vit), labels
        ),
        "Keras' own layers": keras_layers,
    }
    return {name: (lambda make=make: _drawn(make)) for name, make in found.items()}


def _text_tasks(backbone, labels) -> dict[str, Callable[[], Any]]:
    """Returns the tasks with a head that take text, in the order of the catalogue."""
    from keras_attention.export.signatures.catalogue import CATALOGUE
    from keras_attention.tasks.base import BackboneTask

    found = {}
    for kind in CATALOGUE:
        if not issubclass(kind, BackboneTask) or "tokenizer" not in kind.PARTS:
            continue
        takes_labels = "labels" in inspect.signature(kind).parameters
        settings = {"labels": labels} if takes_labels else {}
        found[kind.__name__] = lambda kind=kind, settings=settings: kind(
            backbone(), tokenizer=_tokenizer(), **settings
        )
    return found


def _tokens() -> int:
    return _byte_pairs().vocabulary_size


def _drawn(make):
    """Builds a model with weights so large that no output is nearly constant."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(1)
    model = make()
    rng = np.random.default_rng(2)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(scale=0.2, size=weight.shape))
    return model


def _tokenizer():
    import keras_attention as ka

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters), *".,'!?"]
    return ka.WordPieceTokenizer(tokens, max_length=LONGEST)


def _byte_pairs():
    import keras_attention as ka
    from keras_attention.text.patterns import byte_characters

    tokens = [*byte_characters().values(), "th", "the", "<end>"]
    merges = [("t", "h"), ("th", "e")]
    roles = {"special_tokens": {"eos": "<end>"}, "max_length": LONGEST}
    return ka.BytePairTokenizer(tokens, merges, **roles)


def _cells(model, progress, name):
    """Yields signatures, each with a dict from runtime to its report or a reason."""
    from keras_attention.export.signatures.catalogue import signatures_of

    # `hidden_states`, for example, is in tests/models/hidden_states_test.py.
    for signature in [one for one in signatures_of(model) if not one.on_request]:
        progress(f"{name}: {signature.name} …")
        cells, written = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for label, (format, opset, runtime) in RUNTIMES.items():
                key = format, opset
                if key not in written:
                    place = Path(folder, f"{format}-{opset}")
                    written[key] = _written(model, signature, place, format, opset)
                cells[label] = _verified(written[key], runtime)
        yield signature.name, cells


def _written(model, signature, place, format, opset):
    """Returns the folder of an artifact, or the reason why there is none."""
    from keras_attention.export import api
    from keras_attention.export.cases.grid import CASES_NAME, save_cases
    from keras_attention.export.signatures.static_axes import with_sizes

    if format not in signature.formats and format != "litert":
        return f"{signature.name} is only for {' and '.join(signature.formats)}"
    if format != "saved_model" and signature.takes_text:
        return "text: only a SavedModel tokenizes"
    place.mkdir()
    try:
        if format == "litert":
            axes = {
                axis
                for info in signature.inputs.values()
                for axis in info.shape
                if isinstance(axis, str)
            }
            sizes = {axis: 1 if axis == "batch" else 12 for axis in axes}
            (signature,) = with_sizes([signature], sizes)
        api.write_files(model, [signature], place, format, opset or 23)
        save_cases(api.answered_cases([signature]), place / CASES_NAME)
    except (ValueError, KeyError) as error:
        shutil.rmtree(place)
        if "past_key_values" in str(error):
            return "LiteRT has no empty past, and no names with dots"
        return str(error).split(". ")[0]
    return place


def _verified(place, runtime):
    from keras_attention.export.verification.verify import verify_here

    if isinstance(place, str):
        return place
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        return "openvino is not installed"
    try:
        return verify_here(place, tolerance=TOLERANCE, runtime=runtime)
    except Exception as error:  # every runtime has its own classes of errors
        named = re.findall(r"Conversion is failed for: (\w+)", str(error))
        if not named:
            raise
        return f"{runtime} does not read the operator {named[0]}"


def _shown(cell, reasons) -> str:
    if isinstance(cell, str):
        return f"[{reasons.setdefault(cell, len(reasons) + 1)}]"
    worst = max(cell.results, key=lambda one: (not one.passed, one.max_abs_error))
    if not worst.passed:
        number = reasons.setdefault(worst.reason, len(reasons) + 1)
        return f"✗ [{number}]"
    errors = [min(one.max_abs_error, one.max_rel_error) for one in cell.results]
    return f"{max(errors):.1e}" if max(errors) else "0"


_INTRODUCTION = f"""\
# Every model, signature and runtime

Each cell is the largest difference between an artifact and the model it was exported
from, over the whole grid of the verification (lengths, padding on both sides, empty
rows, caches). It is absolute for values up to 1 and relative above; 1e-5 is allowed.
Texts and token ids must be equal, which the cell shows as 0. The models are small and
have random weights. `python -m benchmarks.matrix --write` wrote this page on
{datetime.now(UTC):%Y-%m-%d}. onnxruntime-web, Triton and the C client have tests of
their own, in tests/consumers.
"""


def _markdown(rows, reasons) -> str:
    lines = [
        *_INTRODUCTION.splitlines(),
        "",
        f"| model | signature | {' | '.join(RUNTIMES)} |",
        f"|---|---|{'---|' * len(RUNTIMES)}",
    ]
    before = None
    for name, *cells in rows:
        lines.append(f"| {'' if name == before else name} | {' | '.join(cells)} |")
        before = name
    lines += ["", "Where there is no number, this is the reason:", ""]
    lines += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
