"""Each block of Python in the README runs when it is pasted alone."""

import pytest
from pasting import ROOT, Interpreter, blocks_of
from samples import minilm_folder
from weights.causal_lm_test import bytes_vocabulary

BLOCKS = blocks_of(ROOT / "README.md")
pytestmark = pytest.mark.tensorflow


def title_of(block):
    """The last line: what the block ends with."""
    return block.strip().splitlines()[-1][:40]


@pytest.fixture
def folder(tmp_path):
    """A working folder in which the models that the README names are there."""
    import keras_attention as ka

    minilm = tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2"
    minilm.parent.mkdir()
    minilm.symlink_to(minilm_folder())
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    gpt2 = ka.GPTDecoder(vocabulary_size=257, max_sequence_length=64, **sizes)
    ka.save_pretrained(gpt2, tmp_path / "openai-community" / "gpt2")
    bytes_vocabulary(tmp_path / "openai-community" / "gpt2", 257)
    return tmp_path


def test_the_readme_has_blocks_of_python():
    assert len(BLOCKS) >= 5


@pytest.fixture(scope="module")
def interpreter():
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()


@pytest.mark.parametrize("block", BLOCKS, ids=title_of)
def test_a_block_of_the_readme_runs_when_pasted_alone(block, folder, interpreter):
    done = interpreter.run(block, folder)
    assert done["error"] is None
    if "verify_artifact" in block:
        assert done["stdout"].splitlines()[-1] == "True"
    if "all-MiniLM" in block:
        assert "0.66" in done["stdout"]
