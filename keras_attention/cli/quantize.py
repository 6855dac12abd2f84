"""`keras-attention quantize` and `keras-attention compare`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_attention.cli.console import (
    console,
    failing_clearly,
    json_option,
    print_json,
    start_tensorflow,
)
from keras_attention.export.verification.child_process import (
    TIME_LIMIT,
    ending_in_time,
)

_TOKENIZER = typer.Option(help="A folder with the files of the tokenizer.")
_TEXTS = typer.Option(help="A file of real texts, one per line.")
_TIME_LIMIT = typer.Option(min=0, help="Seconds after which running is ended.")


def quantize(
    source: Annotated[Path, typer.Argument(help="A float32 ONNX artifact.")],
    path: Annotated[Path, typer.Argument(help="Folder of the new artifact.")],
    kind: Annotated[
        str, typer.Option("--kind", "-k", help="int8, int4 or dynamic_int8.")
    ] = "int8",
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of weights to leave in float32; repeatable."),
    ] = None,
    min_cosine: Annotated[
        float | None,
        typer.Option(help="Leave weights in float32 until texts reach this."),
    ] = None,
    texts: Annotated[Path | None, _TEXTS] = None,
    tokenizer: Annotated[Path | None, _TOKENIZER] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest distance allowed on the cases.")
    ] = None,
    time_limit: Annotated[float, _TIME_LIMIT] = TIME_LIMIT,
    as_json: bool = json_option(),
) -> None:
    """Write an ONNX artifact again with its weights in fewer bits."""
    with failing_clearly():
        if min_cosine is not None and (texts is None or tokenizer is None):
            raise ValueError(
                "--min-cosine is measured on real texts: pass --texts and --tokenizer. "
                f"Received: --texts {texts}, --tokenizer {tokenizer}"
            )
        with console.status("Quantising …") as status:
            from keras_attention.export.artifact.manifest import read_manifest
            from keras_attention.export.quantization.quantize import quantize_artifact

            folder = quantize_artifact(
                source,
                path,
                kind,
                keep=keep or (),
                feeds=_feeds(source, texts, tokenizer) if min_cosine else None,
                min_cosine=min_cosine,
                tolerance=tolerance,
                time_limit=time_limit,
                on_progress=lambda stage: status.update(f"{stage} …"),
            )
        manifest = read_manifest(folder)
        before = read_manifest(source)
        if as_json:
            sizes = {"bytes": manifest.weights_bytes, "before": before.weights_bytes}
            found = {"verification": manifest.verification}
            print_json({"path": str(folder), **sizes, **manifest.quantization, **found})
            return
        from keras_attention.cli.verify import print_results

        print_results(manifest.verification)
        ratio = manifest.weights_bytes / before.weights_bytes
        console.print(
            f"{manifest.weights_bytes / 1e6:,.1f} MB, {ratio:.2f} of the size before. "
            f"Written to [bold]{folder}[/bold]"
        )


def compare(
    artifacts: Annotated[
        list[str],
        typer.Argument(help="The reference, then others: PATH or PATH@RUNTIME."),
    ],
    texts: Annotated[Path, _TEXTS],
    tokenizer: Annotated[Path | None, _TOKENIZER] = None,
    signature: Annotated[
        str | None, typer.Option("--signature", "-s", help="The signature to run.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of texts.")] = 512,
    allow_unverified: Annotated[
        bool,
        typer.Option("--allow-unverified", help="Open files without a manifest too."),
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: all cores.")] = 0,
    time_limit: Annotated[float, _TIME_LIMIT] = TIME_LIMIT,
    as_json: bool = json_option(),
) -> None:
    """Compare artifacts on real texts: how exact, how fast, and which one to use."""
    with failing_clearly(), ending_in_time(time_limit, "the comparison"):
        with console.status("Loading …") as status:
            from keras_attention.export.verification.comparison import compare_artifacts

            found = compare_artifacts(
                artifacts,
                _lines(texts)[:limit],
                _tokenizer(tokenizer),
                signature=signature,
                intra_op_threads=threads,
                allow_unverified=allow_unverified,
                on_progress=lambda stage: status.update(f"{stage} …"),
            )
        if as_json:
            rows = [asdict(one) | {"close": one.is_close} for one in found.candidates]
            best = {"recommended": found.recommended.name, "texts": found.num_texts}
            print_json({**best, "candidates": rows})
            return
        console.print(comparison_table(found))
        console.print(f"Recommended: [bold]{found.recommended.name}[/bold]")


def comparison_table(found: Any) -> Any:
    """Returns the table of a comparison.

    Args:
        found: The `Comparison` that `compare_artifacts` returned.
    """
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("artifact", "runtime", "MB", "texts/s", "speed"):
        left = column in ("artifact", "runtime")
        table.add_column(column, justify="left" if left else "right")
    for column in ("output", "worst cosine", "same", "perplexity", "close"):
        table.add_column(column, justify="left" if column == "output" else "right")
    for one in found.candidates:
        for row, each in enumerate(one.agreements):
            first = (
                one.name,
                one.runtime,
                f"{one.bytes / 1e6:.1f}",
                f"{one.texts_per_second:.0f}",
                f"{one.speed:.2f}×",
            )
            perplexity = "" if each.perplexity is None else f"{each.perplexity:.3f}"
            table.add_row(
                *(first if row == 0 else ("",) * 5),
                each.output,
                f"{each.worst_cosine:.5f}",
                f"{each.same:.1%} {each.decision}",
                perplexity,
                ("yes" if one.is_close else "no") if row == 0 else "",
            )
    return table


def _feeds(source, texts, tokenizer):
    from keras_attention.export.runtimes.opening import open_artifact
    from keras_attention.export.verification.comparison import feeds_of_texts

    with open_artifact(source) as runner:
        (described,) = runner.signatures.values()
    return feeds_of_texts(_lines(texts)[:64], _tokenizer(tokenizer), described.inputs)


def _lines(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise ValueError(f"There are no texts in the file. Received: {file}")
    return found


def _tokenizer(folder: Path | None) -> Any:
    if folder is None:
        return None
    start_tensorflow()
    from keras_attention.text.loading import load_tokenizer

    return load_tokenizer(folder)
