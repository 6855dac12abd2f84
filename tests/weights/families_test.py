"""docs/weights.md lists exactly the families, formats and tasks that the code has."""

import re
from pathlib import Path

import pytest

import keras_attention as ka
from keras_attention.weights import families, heads_hf, llama2c, tf_checkpoint

PAGE = (Path(__file__).parents[2] / "docs" / "weights.md").read_text("utf-8")


def rows_of(first_column):
    """Returns the rows of the table with this first heading, each a list of cells."""
    lines = PAGE.split(f"| {first_column} |", 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_the_page_lists_every_family_once():
    listed = [name for row in rows_of("family") for name in quoted(row[1])]
    assert sorted(listed) == sorted(families.MODULES)


@pytest.mark.parametrize("row", rows_of("family"), ids=lambda row: row[0])
def test_a_row_of_a_family_is_that_of_the_code(row):
    (name,), (backbone,), (saved,) = map(quoted, row[1:])
    family = families.family_of_config({"model_type": name}, "docs/weights.md")
    assert {name, saved} <= {*family.MODEL_TYPES}
    assert families.MODULES[name] in families.WRITERS[backbone]
    assert hasattr(ka, backbone)


def test_the_page_lists_every_other_format():
    files = " ".join(row[1] for row in rows_of("format"))
    names = [kind.CONFIG for kind in tf_checkpoint.FORMATS]
    assert all(name in files for name in names)
    assert ".bin" in files
    assert len(rows_of("format")) == len(names) + len(llama2c.MODEL_TYPES)


def test_the_page_lists_every_task():
    listed = {
        (suffix.removeprefix("…"), task.strip('"'))
        for row in rows_of("architecture in config.json")
        for suffix in quoted(row[0])
        for task in quoted(row[1])
    }
    assert listed == {(head.suffix, head.task) for head in heads_hf.HEADS}
    for row in rows_of("architecture in config.json"):
        assert hasattr(ka, *quoted(row[2]))
