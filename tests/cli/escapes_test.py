"""Names that somebody else chose do not command the terminal, and forge no line."""

import shutil

import pytest
from served import small_artifact
from typer.testing import CliRunner

from keras_attention.cli.main import app
from keras_attention.export.artifact.manifest import read_manifest, save_manifest

EVIL = "x\x1b[2J\rServed\n[bold]y\u202e"


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def is_harmless(printed):
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert "\\x1b[2J" in printed.replace("\n", "")
    assert not [line for line in printed.splitlines() if line.startswith("Served")]
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "command",
    [
        ["verify"], ["info"], ["scan"], ["serve"], ["rollback"], ["restore"],
        ["publish", "PATH", "served"], ["quantize", "PATH", "small"],
        ["compare", "PATH", "--texts", "texts"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_path_is_escaped_in_errors(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").write_text("one text\n")
    path = tmp_path / EVIL
    arguments = [str(path) if one == "PATH" else one for one in command]
    status, printed = run(*arguments, *([path] if "PATH" not in command else []))
    assert status == 1
    is_harmless(printed)
    assert len(printed) < 2500


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """An artifact in a folder with such a name, whose manifest has such names."""
    folder = tmp_path_factory.mktemp("evil") / EVIL
    small_artifact(folder)
    manifest = read_manifest(folder)
    manifest.signatures[EVIL] = manifest.signatures["spell"]
    save_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize("command", ["info", "scan"])
def test_names_in_an_artifact_are_escaped(artifact, command):
    status, printed = run(command, artifact)
    assert status == 0, printed
    is_harmless(printed)


def test_the_error_of_an_artifact_with_an_extra_file_is_escaped(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "1")
    (folder / EVIL.replace("/", "")).write_text("x")
    for command in ("scan", "verify"):
        status, printed = run(command, folder)
        assert status == 1
        is_harmless(printed)
