"""SECURITY.md and docs/serving.md name the options that there are."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from keras_attention.cli.main import app

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def options_of(command):
    found = get_command(app).commands[command]  # pyright: ignore
    return {name for one in found.params for name in one.opts if name[:2] == "--"}


def text_of(page):
    return FENCED.sub("", page)


def test_security_names_options_that_there_are():
    named = set(OPTION.findall(text_of(SECURITY)))
    commands = ("serve", "verify", "publish", "quantize", "compare")
    known = {command: options_of(command) for command in commands}
    assert len(named) >= 9
    assert named <= set.union(*known.values())
    for command in commands[1:]:
        assert "--time-limit" in known[command]


def test_security_names_every_limit_of_the_server():
    limits = {
        name
        for name in options_of("serve")
        if re.search("max|timeout|allowed|host", name)
    }
    assert limits <= set(OPTION.findall(text_of(SECURITY)))


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/serving.md"])
def test_the_commands_of_a_page_have_their_options(page):
    """Those after `keras-attention COMMAND`, which other programs may start."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(r"keras-attention\"? (serve|verify|scan)\b(.*)", text)
    assert calls
    for command, rest in calls:
        assert set(OPTION.findall(rest.split("`")[0])) <= options_of(command), rest


def test_the_page_about_serving_has_every_option():
    section = SERVING.split("\n## Options\n")[1].split("\n## ")[0]
    assert set(OPTION.findall(section)) == options_of("serve") - {"--help"}


def test_the_defaults_of_the_page_are_those_of_the_command():
    found = get_command(app).commands["serve"]  # pyright: ignore
    defaults = {one.opts[0]: one.default for one in found.params}
    for option, value in {
        "--port": "8501", "--grpc-port": "8500", "--keep": "1", "--threads": "8",
        "--max-batch": "1,024", "--timeout": "30 seconds", "--host": "127.0.0.1",
        "--max-body-bytes": "16 MiB", "--max-connections": "256",
        "--header-timeout": "10 seconds", "--max-waiting-bytes": "256 MiB",
    }.items():  # fmt: skip
        number = value.split()[0].replace(",", "")
        expected = int(number) << 20 if "MiB" in value else number
        assert str(defaults[option]).removesuffix(".0") == str(expected)
        row = next(x for x in SERVING.splitlines() if f"`{option}`" in x and value in x)
        assert row.startswith("|")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_security_is_linked(page):
    assert "(SECURITY.md)" in (ROOT / page).read_text(encoding="utf-8")
