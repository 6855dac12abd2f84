"""`keras-attention verify`."""

from collections.abc import Iterable, Mapping
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
    working,
)
from keras_attention.export.runtimes.opening import runtimes_of
from keras_attention.export.verification.child_process import (
    CASE_TIME_LIMIT,
    TIME_LIMIT,
)

_WORST = ("cases", "worst error", "worst case")
_RUNTIMES = ", ".join(runtimes_of(".onnx"))


def verify(
    path: Annotated[
        Path,
        typer.Argument(help="An artifact, or a base folder with version folders."),
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest error allowed; default: that of the export."),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help=f"For ONNX: one of {_RUNTIMES}; default: the first."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds after which the process is ended.")
    ] = TIME_LIMIT,
    case_time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds that one case may take.")
    ] = CASE_TIME_LIMIT,
    all_cases: Annotated[
        bool, typer.Option("--all", help="List every case, not only the worst.")
    ] = False,
    as_json: bool = json_option(),
) -> None:
    """Check an artifact's files and run all its verification cases again.

    Exit status: 0 if every case agrees, 1 if not or if it cannot be read.
    """
    from keras_attention.export.verification.verify import verify_artifact

    with (
        failing_clearly(as_json),
        working("Verifying in a fresh process", quiet=as_json),
    ):
        report = verify_artifact(
            path,
            tolerance=tolerance,
            runtime=runtime,
            time_limit=time_limit,
            case_time_limit=case_time_limit,
        )
    results = [vars(result) for result in report.results]
    if as_json:
        summary = {"path": str(report.path), "passed": report.passed}
        print_json({**summary, "results": results})
    else:
        print_results(results, all_cases=all_cases)
        word = "[green]verified[/green]" if report.passed else "[red]FAILED[/red]"
        console.print(f"{shown(report.path)}: {word}")
    if not report.passed:
        raise typer.Exit(1)


def print_results(
    results: Iterable[Mapping[str, Any]], *, all_cases: bool = False
) -> None:
    """Prints verification results, one row per signature or one row per case."""
    rows = []
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for result in results:
        key = (result["signature"], result["case"] if all_cases else "")
        groups.setdefault(key, []).append(result)
    for group in groups.values():
        worst = max(group, key=lambda r: (not r["passed"], r["max_abs_error"]))
        mark = (
            "[green]✓[/green]"
            if worst["passed"]
            else f"[red]{shown(worst['reason'])}[/red]"
        )
        # If no error is above 0, no case is the worst.
        named = all_cases or worst["max_abs_error"] or not worst["passed"]
        rows.append(
            (
                shown(worst["signature"]),
                shown(worst["runtime"]),
                str(len(group)),
                f"{worst['max_abs_error']:.1e}",
                shown(worst["case"]) if named else "",
                mark,
            )
        )
    names = ("cases", "error", "case") if all_cases else _WORST
    print_table(("signature", "runtime", *names, ""), rows)
