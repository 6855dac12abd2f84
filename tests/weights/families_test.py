"""docs/weights.md lists exactly the families, formats and tasks that the code has."""

import re
from pathlib import Path

import pytest

import keras_attention as ka
from keras_attention.weights import (
    classifiers_hf,
    families,
    heads_hf,
    llama2c,
    tf_checkpoint,
)

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
    (name,), (backbone, *_), (saved,) = map(quoted, row[1:])
    family = families.family_of_config({"model_type": name}, "docs/weights.md")
    assert {name, saved} <= {*family.MODEL_TYPES}
    assert families.MODULES[name] in families.WRITERS[backbone]
    assert hasattr(ka, backbone)


TABLES = {
    "ForSequenceClassification": classifiers_hf.FORMS,
    "ForTokenClassification": heads_hf.TOKEN_CLASSIFIERS,
    "ForMaskedLM": heads_hf.MASKED,
}


@pytest.mark.parametrize("row", rows_of("head"), ids=lambda row: row[0])
def test_a_row_of_a_head_is_that_of_the_code(row):
    (suffix,), listed = map(quoted, row)
    table = TABLES[suffix.removeprefix("…")]
    models = [name for name in families.MODULES if _has(name, table)]
    assert sorted(listed) == sorted(models)


def _has(model_type, table):
    try:
        return families.of_family({"model_type": model_type}, table) is not None
    except ValueError:
        return False


def test_the_page_lists_every_head_of_a_family():
    assert {row[0].strip("`…") for row in rows_of("head")} == set(TABLES)


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
