"""`python -m benchmarks`: runs all measurements; one table, one results file."""

import importlib
import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.measure import Row, Settings, Skipped

RESULTS = Path(__file__).parent / "results"
# Name on the command line -> module. Groups that start programs are first, while
# nothing else is loaded.
GROUPS = {
    "start": "start",
    "local": "local",
    "long": "long",
    "layer": "layer",
    "tokenizer": "tokenizer",
    "sentences": "sentences",
    "export": "size",
    "scan": "scan",
    "encoder": "encoder",
    "generate": "generate",
}
# These groups only start other programs: TensorFlow is not loaded here for them.
PROGRAMS = {"start", "local", "long"}
console = Console(stderr=True, highlight=False)


def main(  # noqa: PLR0917 (options of a command)
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(GROUPS)}; repeatable."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rounds, smaller models, no file.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="A file of sentences, one per line.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=2, help="Samples per candidate.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Results file; default: benchmarks/results/.")
    ] = None,
) -> None:
    """Measure side by side with named peers; ratios over 1 are in our favour."""
    if unknown := set(only or ()) - set(GROUPS):
        names = ", ".join(GROUPS)
        raise typer.BadParameter(f"--only takes {names}. Received: {sorted(unknown)}")
    settings = Settings(rounds or (5 if quick else 15), threads, quick, data)
    machine.use_threads(threads)
    found = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), **machine.describe()}
    rows, skipped = [], {}
    for name in only or GROUPS:
        rows += _measured(name, settings, skipped)
    found["settings"] = {**asdict(settings), "data": data and Path(data).name}
    found["skipped"] = skipped
    found["rows"] = [_rounded({**asdict(row), "verdict": row.verdict}) for row in rows]
    if as_json:
        print(_as_json(found))
    else:
        table = Console(highlight=False)
        table = table if table.is_terminal else Console(highlight=False, width=150)
        table.print(_table(rows))
    if out or not (quick or only):
        path = out or RESULTS / f"{found['date']}-{machine.cpu_slug()}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_as_json(found) + "\n", encoding="utf-8")
        console.print(f"Written: {path}")


def _measured(name: str, settings: Settings, skipped: dict[str, str]) -> list[Row]:
    start = time.monotonic()
    try:
        with console.status(f"{name} …") as status:

            def progress(stage: str) -> None:
                status.update(f"{name}: {stage} …")

            if name not in PROGRAMS:
                progress("loading TensorFlow")
                machine.start_tensorflow()
            module = importlib.import_module(f"benchmarks.{GROUPS[name]}")
            found = module.run(settings, progress)
    except ImportError as error:
        skipped[name] = str(error)
        console.print(f"{name}: skipped. {error}", markup=False)
        return []
    rows = [row for row in found if isinstance(row, Row)]
    for one in [row for row in found if isinstance(row, Skipped)]:
        skipped[f"{name}: {one.what}"] = one.reason
        console.print(f"{name}: skipped. {one.reason}", markup=False)
    for row in rows:
        console.print(f"{row.group}: {row.case}: {_ratio(row)} {row.peer_name}")
    console.print(f"{name}: {time.monotonic() - start:.0f} s", style="dim")
    return rows


def _as_json(found: dict) -> str:
    """Formats results as indented JSON, with a candidate's samples on one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    numbers = re.compile(r"\[\s+([-+\d.e,\s]+?)\s+\]")
    return numbers.sub(lambda match: f"[{' '.join(match[1].split())}]", text)


def _ratio(row: Row) -> str:
    if row.low is None:
        return f"{row.ratio:.3g}×"
    return f"{row.ratio:.3g}× ({row.low:.3g}, {row.high:.3g})"


def _rounded(row: dict) -> dict:
    samples = {k: [float(f"{s:.4g}") for s in v] for k, v in row["samples"].items()}
    numbers = ("ours", "peer", "ratio", "low", "high")
    short = {k: row[k] and float(f"{row[k]:.5g}") for k in numbers}
    return {**row, **short, "samples": samples}


def _table(rows: list[Row]) -> Table:
    table = Table(title="Over 1 is in our favour; in brackets the 95 % interval")
    columns = ("", "case", "ours", "peer", "named", "ratio", "target", "note")
    for name in columns:
        right = name in ("ours", "peer", "ratio")
        table.add_column(name, justify="right" if right else "left")
    for row in rows:
        target = "" if row.target is None else f"≥ {row.target:g} {row.verdict}"
        table.add_row(
            row.group,
            row.case,
            f"{row.ours:,.4g} {row.unit}",
            f"{row.peer:,.4g}",
            row.peer_name,
            _ratio(row),
            target,
            row.note,
            style="yellow" if "missed" in (row.verdict, row.note[-6:]) else None,
        )
    return table


if __name__ == "__main__":
    typer.run(main)
