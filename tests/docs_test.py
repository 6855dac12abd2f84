"""The documentation runs: every `>>>` in docs/, every link leads somewhere.

And it is complete: each kind of attention, position scheme and cache has its section,
and the table of scores lists what the code allows.
"""

import doctest
import re
from pathlib import Path

import pytest

import keras_attention as ka

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
KINDS = sorted((ROOT / "docs" / "kinds").glob("*.md"))
OVERVIEW = ROOT / "docs" / "kinds" / "README.md"
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
HEADING = re.compile(r"^(#+) (.*)$", flags=re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
# No kind of attention, and nothing about positions.
NO_KIND = {
    *("AttentionInputs", "AttentionLayer", "PositionScheme"),
    *("FeedForward", "PatchEmbedding", "RMSNormalization", "from_keras", "masks"),
}


def name_of(page):
    return str(page.relative_to(ROOT))


def headings_of(page):
    return HEADING.findall(FENCED.sub("", page.read_text()))


def anchor_of(heading):
    """The anchor GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def public_kinds():
    """Public names of layers/ and ops/, and of what checks them."""
    packages = {"layers", "ops", "testing"}
    names = {
        n for n, where in ka._DEFINED_IN.items() if where.split(".")[1] in packages
    }
    return sorted(names - NO_KIND)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_examples_of_a_page_run(page):
    import keras
    import numpy as np

    known = {"ka": ka, "np": np, "keras": keras, "ops": keras.ops, "masks": ka.masks}
    # A fence would be taken for output: doctest knows no Markdown.
    text = re.sub(r"^```.*$", "", page.read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, known, page.name, str(page), 0)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    assert not result.failed, "".join(said)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_links_lead_to_files_and_headings(page):
    text = page.read_text()
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", text):
        target = page.parent / link if link else page
        if not target.exists():
            missing.append(link)
        elif anchor and target.suffix == ".md":
            anchors = [anchor_of(heading) for _, heading in headings_of(target)]
            missing += [] if anchor in anchors else [f"{link}#{anchor}"]
    assert not missing, missing


@pytest.mark.parametrize("name", public_kinds())
def test_every_public_kind_has_a_section_and_a_row_of_the_overview(name):
    with_section = [
        page.name
        for page in KINDS
        if any(f"`{name}`" in heading for _, heading in headings_of(page))
    ]
    assert len(with_section) == 1, f"sections of {name}: {with_section}"
    rows = [row for row in OVERVIEW.read_text().splitlines() if row.startswith("|")]
    linked = [row for row in rows if f"`{name}`" in row and with_section[0] in row]
    assert linked, f"{OVERVIEW.name} has no row with `{name}` and {with_section[0]}"


def test_the_table_of_scores_lists_what_each_kind_allows():
    from keras_attention.layers import (
        _scores,
        dot_product_attention,
        global_attention,
        local_attention,
        monotonic_attention,
    )

    section = OVERVIEW.read_text().split("## Scores")[1].split("\n## ")[0]
    rows = [re.split(r" *(?<!\\)\| *", line) for line in section.splitlines()]
    title, _, *rows = [row[1:-1] for row in rows if len(row) > 2]
    allowed = {row[0].strip('`"'): row for row in rows}
    assert set(allowed) == set(_scores.SCORES)
    for kind in (
        dot_product_attention,
        global_attention,
        local_attention,
        monotonic_attention,
    ):
        name = kind.__name__.split(".")[-1].title().replace("_", "")
        column = title.index(f"`{name}`")
        listed = {score for score, row in allowed.items() if row[column]}
        assert listed == set(kind.SCORES), name


@pytest.mark.parametrize("page", sorted({*KINDS} - {OVERVIEW}), ids=name_of)
def test_a_page_of_a_kind_answers_the_questions_of_its_reader(page):
    headings = {heading for _, heading in headings_of(page)}
    missing = {"Use it when", "Do not use it when", "Cost", "Export"} - headings
    assert not missing, missing
    assert ">>> " in page.read_text(), "a page needs an example"
    assert re.search(r"arXiv:\d{4}\.\d{5}|^No paper", page.read_text(), re.MULTILINE)


def test_no_text_tells_to_install_the_package_that_has_our_old_name():
    """`keras-attention` on PyPI is somebody else's; ours is keras-attention-layers."""
    wrong = re.compile(
        r"""(pip install|Install)[^\n]*["' ]keras-attention(?!-layers)"""
    )
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "setup.cfg")]
    for folder in ("keras_attention", "docs", "examples", "export", "benchmarks"):
        for ending in ("*.py", "*.md"):
            files += (ROOT / folder).rglob(ending)
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        if "node_modules" not in path.parts
        for match in wrong.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found
