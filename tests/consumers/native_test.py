"""The C program runs every signature of tasks that takes text, and agrees."""

import numpy as np
import pytest
from c_client import ask, compile_client, library_options, needs_compiler, rows
from language_models import language_model
from samples import small_sentence_encoder
from small_models import small_tasks

import keras_attention as ka
from keras_attention.export.artifact.manifest import read_manifest
from keras_attention.export.cases.grid import CASES_NAME, load_cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs_compiler]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return compile_client(tmp_path_factory.mktemp("build"))


MODELS = {
    "SentenceEncoder": small_sentence_encoder,
    **{n: make for n, make in small_tasks().items() if n != "ImageClassifier"},
    "CausalLM": lambda: language_model("gpt2"),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=[*MODELS])
def test_c_runs_every_signature_that_takes_text(make, client, tmp_path):
    pytest.importorskip("tensorflow_text")
    folder = ka.export_model(make(), tmp_path / "m", warmup=False)
    manifest = read_manifest(folder)
    libraries = library_options(manifest.op_libraries)
    asked = set()
    for case in load_cases(folder / CASES_NAME):
        texts = "".join("".join(x) for x in case.inputs.values() if isinstance(x, list))
        # A command line cannot hold a text with a zero in it.
        if not texts or case.signature in asked or "\0" in texts:
            continue
        asked.add(case.signature)
        named = []
        for name, values in case.inputs.items():
            named += ["--input", name, *(str(value) for value in values)]
        for output in [*case.expected][:2]:
            expected = case.expected[output]
            got = rows(ask(client, *libraries, folder, case.signature, output, *named))
            if expected.dtype.kind == "O":
                assert got == expected.tolist()
            else:
                np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)
    of_text = {
        name
        for name, one in manifest.signatures.items()
        if any(info.dtype == "string" for info in one.inputs.values())
    }
    assert asked == of_text
    assert asked
