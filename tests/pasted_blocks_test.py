"""Each block of Python of docs/ runs when it is pasted alone."""

import pytest
from pasting import ROOT, Interpreter, blocks_of

PAGES = {
    str(page.relative_to(ROOT)): blocks_of(page)
    for page in sorted((ROOT / "docs").rglob("*.md"))
}
BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page, blocks in PAGES.items()
    for number, block in enumerate(blocks, 1)
]
pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def interpreter():
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_when_pasted_alone(block, interpreter, tmp_path):
    assert interpreter.run(block, tmp_path)["error"] is None


@pytest.mark.parametrize("page", PAGES)
def test_a_block_that_uses_a_package_imports_it(page):
    """What the slow test proves by running, seen in the text: cheap enough for all."""
    for number, block in enumerate(PAGES[page], 1):
        names = {"ka": "keras_attention as ka", "np": "numpy as np", "keras": "keras"}
        for name, imported in names.items():
            if f"{name}." in block.replace(f" {name}.", f" {name}.") and (
                f" {name}." in block or f"({name}." in block
            ):
                assert f"import {imported}" in block, f"block {number} uses {name}"


@pytest.mark.slow
def test_the_interpreter_sees_a_missing_import_and_a_wrong_output(
    interpreter, tmp_path
):
    missing = interpreter.run("print(np.zeros(3))\n", tmp_path)
    assert "NameError" in missing["error"]
    assert "Expected" in interpreter.run(">>> 1 + 1\n3\n", tmp_path)["error"]
    kept = interpreter.run("import numpy as np\nprint(np.zeros(1))\n", tmp_path)
    assert kept == {"stdout": "[0.]\n", "error": None}
    assert "status" in interpreter.run("import os\nos._exit(3)\n", tmp_path)["error"]
