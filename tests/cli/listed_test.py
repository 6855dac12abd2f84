"""The lists of commands and examples in the README are those of the code."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from keras_attention.cli.main import COMMANDS, app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(first_heading):
    """The rows of the README's table whose first column has this heading."""
    (found,) = re.findall(
        rf"^\| {first_heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE
    )
    return [row.split("|")[1].strip() for row in found.splitlines()]


def listed_commands():
    """The commands of the README's table; one row may have several."""
    cells = [
        re.findall(r"`(?:keras-attention )?([a-z-]+)", c) for c in table("command")
    ]
    return [command for cell in cells for command in cell]


def offered_commands():
    return list(get_command(app).commands)  # pyright: ignore


def test_the_readme_lists_every_command_once():
    assert sorted(listed_commands()) == sorted(offered_commands())


def test_every_command_says_what_it_does():
    for name, command in get_command(app).commands.items():  # pyright: ignore
        assert command.help, name
        first = command.help.splitlines()[0]
        assert re.fullmatch(r"[A-Z].*[.:]", first), f"{name}: {first}"


def test_every_file_of_cli_with_a_command_is_offered():
    """A file belongs to the command line if it has a function of the same name."""
    folder = ROOT / "keras_attention" / "cli"
    with_commands = {
        path.stem
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == path.stem
    }
    assert with_commands - {"main"} == set(COMMANDS)


@pytest.mark.parametrize("command", offered_commands())
def test_the_documentation_names_every_command(command):
    pages = "".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")
    )
    assert f"keras-attention {command}" in pages
