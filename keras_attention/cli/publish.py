"""`keras-attention publish`, `rollback` and `restore`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_attention.cli.console import (
    console,
    failing_clearly,
    json_option,
    print_json,
    shown,
    working,
)
from keras_attention.export.verification.child_process import TIME_LIMIT

_Base = Annotated[Path, typer.Argument(help="The base folder with version folders.")]


def publish(
    source: Annotated[Path, typer.Argument(help="An artifact, e.g. build/minilm/1.")],
    target: _Base,
    version: Annotated[
        int | None, typer.Option(help="The version's number; default: the next one.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds that the verification may take.")
    ] = TIME_LIMIT,
    as_json: bool = json_option(),
) -> None:
    """Verify an artifact and put a copy in place as a version, whole or not at all.

    Exit status: 0 if it is in place; 1 if not, and then nothing was changed.
    """
    from keras_attention.export.deployment.versions import publish as publish_version

    with (
        failing_clearly(as_json),
        working("Verifying in a fresh process", quiet=as_json),
    ):
        final = publish_version(source, target, version=version, time_limit=time_limit)
    if as_json:
        print_json({"path": str(final), "version": int(final.name)})
    else:
        console.print(f"{shown(final)}: [green]published[/green]")


def rollback(
    base: _Base,
    to: Annotated[
        int | None, typer.Option(help="The version to serve; default: the one before.")
    ] = None,
    as_json: bool = json_option(),
) -> None:
    """Serve an older version again; newer ones are renamed N.withdrawn.

    Exit status: 0 if the older version is the highest now, 1 if that is not possible.
    """
    from keras_attention.export.deployment.versions import rollback as roll_back

    with failing_clearly(as_json):
        done = roll_back(base, to=to)
    _print(done, "withdrawn", as_json)


def restore(
    base: _Base,
    version: Annotated[
        int | None, typer.Option(help="Which; default: the highest withdrawn one.")
    ] = None,
    as_json: bool = json_option(),
) -> None:
    """Give a withdrawn version its number back.

    Exit status: 0 if it is restored, 1 if that is not possible.
    """
    from keras_attention.export.deployment.versions import restore as bring_back

    with failing_clearly(as_json):
        done = bring_back(base, version)
    _print(done, "restored", as_json)


def _print(done, word: str, as_json: bool) -> None:
    if as_json:
        moved = list(done.moved)
        print_json({"base": str(done.base), "served": done.served, word: moved})
        return
    moved = ", ".join(map(str, done.moved)) or "none"
    console.print(
        f"{shown(done.base)}: version {done.served} is served; {word}: {moved}"
    )
