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
    print_table,
    shown,
    start_tensorflow,
    working,
)
from keras_attention.export.verification.child_process import (
    TIME_LIMIT,
    ending_in_time,
)

_MOST_TEXTS = 512
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
    with failing_clearly(as_json):
        wanted = min_cosine is not None or texts is not None
        if wanted and (texts is None or tokenizer is None):
            raise ValueError(
                "Agreement is measured on real texts: pass --texts and --tokenizer. "
                f"Received: --texts {texts}, --tokenizer {tokenizer}"
            )
        agreement = None
        with working("Quantising", quiet=as_json) as update:
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
                on_progress=update,
            )
            if texts is not None:
                agreement = _agreement(source, folder, texts, tokenizer, update)
        manifest = read_manifest(folder)
        before = read_manifest(source)
        if as_json:
            sizes = {"bytes": manifest.weights_bytes, "before": before.weights_bytes}
            found = {"verification": manifest.verification, **_as_json(agreement)}
            print_json({"path": str(folder), **sizes, **manifest.quantization, **found})
            return
        from keras_attention.cli.verify import print_results

        print_results(manifest.verification)
        if agreement is not None:
            _print_agreement(agreement)
        ratio = manifest.weights_bytes / before.weights_bytes
        console.print(
            f"{manifest.weights_bytes / 1e6:,.1f} MB, {ratio:.2f} of the size before. "
            f"Written to [bold]{shown(folder)}[/bold]"
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
    with failing_clearly(as_json), ending_in_time(time_limit, "the comparison"):
        with working("Loading", quiet=as_json) as update:
            from keras_attention.export.verification.comparison import compare_artifacts

            found = compare_artifacts(
                artifacts,
                _lines(texts)[:limit],
                _tokenizer(tokenizer),
                signature=signature,
                intra_op_threads=threads,
                allow_unverified=allow_unverified,
                on_progress=update,
            )
        if as_json:
            rows = [
                asdict(one) | {"close": one.is_close, "reasons": one.reasons}
                for one in found.candidates
            ]
            best = {"recommended": found.recommended.name, "texts": found.num_texts}
            print_json({**best, "candidates": rows})
            return
        print_comparison(found)
        console.print(f"Recommended: [bold]{shown(found.recommended.name)}[/bold]")


def print_comparison(found: Any) -> None:
    """Prints the table of a comparison, and why an artifact is not close enough.

    Args:
        found: The `Comparison` that `compare_artifacts` returned.
    """
    rows = []
    for one in found.candidates:
        for row, each in enumerate(one.agreements):
            first = (
                shown(one.name),
                one.runtime,
                f"{one.bytes / 1e6:.1f}",
                f"{one.texts_per_second:.0f}",
                f"{one.speed:.2f}×",
            )
            perplexity = "" if each.perplexity is None else f"{each.perplexity:.3f}"
            rows.append(
                (
                    *(first if row == 0 else ("",) * 5),
                    shown(each.output),
                    f"{each.worst_cosine:.5f}",
                    f"{each.same:.1%} {each.decision}",
                    perplexity,
                    ("yes" if one.is_close else "no") if row == 0 else "",
                )
            )
    names = ("artifact", "runtime", "MB", "texts/s", "speed", "output")
    print_table((*names, "worst cosine", "same", "perplexity", "close"), rows)
    for one in found.candidates:
        if not one.is_close:
            reasons = "; ".join(dict.fromkeys(one.reasons))
            console.print(f"{shown(one.name)} is not close: {shown(reasons)}")


def _agreement(source, folder, texts, tokenizer, update):
    from keras_attention.export.verification.comparison import compare_artifacts

    return compare_artifacts(
        [source, folder],
        _lines(texts)[:_MOST_TEXTS],
        _tokenizer(tokenizer),
        rounds=1,
        on_progress=update,
    )


def _as_json(found):
    if found is None:
        return {}
    agreements = [asdict(each) for each in found.candidates[-1].agreements]
    return {"texts": found.num_texts, "agreements": agreements}


def _print_agreement(found):
    for each in found.candidates[-1].agreements:
        console.print(
            f"{shown(each.output)} on {found.num_texts} texts: worst cosine "
            f"{each.worst_cosine:.5f}, {each.same:.1%} the same {each.decision}"
        )


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
