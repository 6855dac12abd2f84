"""The page of export/web computes in a headless Chromium what the model computes."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from samples import small_bert

WEB = Path(__file__).parents[2] / "export/web"
DRIVER = Path(__file__).with_name("web_page.mjs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LEFT_OUT = shutil.ignore_patterns("node_modules", "artifact")
OPSETS = (18, 23)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorflow,
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def chromium():
    """The executable that KERAS_ATTENTION_CHROMIUM names, else one on the PATH."""
    named = os.environ.get("KERAS_ATTENTION_CHROMIUM")
    if named:
        assert shutil.which(named), f"KERAS_ATTENTION_CHROMIUM is no program: {named}"
        return shutil.which(named)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}, or KERAS_ATTENTION_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def site(chromium, tmp_path_factory):
    """A copy of export/web with its packages and one artifact per opset, served."""
    pytest.importorskip("tf2onnx")
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    folder = tmp_path_factory.mktemp("web") / "site"
    shutil.copytree(WEB, folder, ignore=LEFT_OUT)
    shutil.copy(DRIVER, folder)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(npm, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the packages here: {done.stderr[-300:]}")
    for opset in OPSETS:
        exported(folder / f"opset-{opset}", opset)
    with served(folder) as url:
        yield folder, url


def exported(folder, opset):
    import keras_attention as ka

    model = small_bert()
    random = np.random.default_rng(0)
    # Attention far from uniform (weights up to 0.93), but not so sharp that float32
    # itself rounds beyond 1e-5: at a scale of 0.4 every runtime does.
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(scale=0.2, size=weight.shape))
    names = ["serving_default", "attention"]
    ka.export_model(model, folder, "onnx", signatures=names, opset=opset)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder):
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def ask(site, chromium):
    """The page's output: (its start, answers, forms), without an error."""
    folder, url = site

    def call(artifact, questions=(), forms=(), complaints=()):
        task = {"url": f"{url}/?artifact={artifact}", "chromium": chromium}
        task |= {"questions": list(questions), "forms": list(forms)}
        done = subprocess.run(
            ["node", DRIVER.name],
            cwd=folder,
            input=json.dumps(task),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said = json.loads(done.stdout)
        assert said["complaints"] == list(complaints)
        return said

    return call


def question(case):
    inputs = {name: value.tolist() for name, value in case.inputs.items()}
    return {"signature": case.signature, "inputs": inputs}


def cases_of(folder):
    from keras_attention.export.cases.grid import load_cases

    return load_cases(folder / "verification.npz")


@pytest.mark.parametrize("opset", OPSETS)
def test_every_case_of_the_verification_passes_in_the_browser(
    site, ask, opset, record_property
):
    onnx = pytest.importorskip("onnx")
    artifact = site[0] / f"opset-{opset}"
    graph = onnx.load(artifact / "attention.onnx").graph
    fused = [node.op_type for node in graph.node].count("Attention")
    assert fused == (2 if opset >= 23 else 0)

    cases = cases_of(artifact)
    assert len(cases) == 40  # 20 per signature
    said = ask(artifact.name, map(question, cases))
    worst = {"serving_default": 0.0, "attention": 0.0}
    times, hidden_weights = [], 0
    for case, answer in zip(cases, said["answers"], strict=True):
        about = f"{case.signature}, {case.name}"
        assert "error" not in answer, f"{about}: {answer}"
        assert answer["outputs"].keys() == case.expected.keys(), about
        times.append(answer["milliseconds"])
        keep = case.inputs["padding_mask"]
        for name, expected in case.expected.items():
            got = np.array(answer["outputs"][name], "float32")
            assert got.shape == expected.shape, about
            error = np.abs(got - expected.astype("float64")).max()
            assert error <= 1e-5, f"{about}: {name} is off by {error}"
            worst[case.signature] = max(worst[case.signature], error)
            if case.signature == "attention":
                hidden = np.broadcast_to(~keep[:, None, None], got.shape)  # as key
                hidden_weights += hidden.sum()
                assert not got[hidden].any(), f"{about}: {name} shows hidden keys"
                # The row of a non-padding token sums to 1, of a padding token to 0.
                sums = np.broadcast_to(keep[:, None], got.shape[:-1])
                np.testing.assert_allclose(got.sum(-1), sums, atol=1e-5)
    assert hidden_weights > 1000
    assert worst["attention"] > 0  # computed there, not copied
    record_property(
        "summary",
        f"Chromium {said['version']}, opset {opset}: {len(cases)} cases, worst output "
        f"{worst['serving_default']:.1e}, worst weight {worst['attention']:.1e}, "
        f"{hidden_weights} hidden weights are 0, median {np.median(times):.1f} ms",
    )


def test_the_page_prints_the_outputs_and_draws_the_weights(site, ask):
    artifact = site[0] / "opset-23"
    name = "batch 3, length 7, left padding"
    by_signature = {x.signature: x for x in cases_of(artifact) if x.name == name}
    forms = [
        {"signature": x.signature, "text": json.dumps(question(x)["inputs"])}
        for x in by_signature.values()
    ]
    forms.append({**forms[-1], "row": 2, "head": 1})
    said = ask(artifact.name, forms=forms)

    start = json.loads(said["start"]["inputs"])
    assert start["padding_mask"] == [[True] * 5 + [False] * 2]
    assert said["start"]["alert"] == ""
    keep = np.array(start["padding_mask"])
    np.testing.assert_array_equal(drawn(said["start"]["pixels"]), keep.T & keep)

    for form, shown in zip(forms, said["forms"], strict=True):
        case = by_signature[form["signature"]]
        assert shown["alert"] == ""
        for name, printed in printed_in(shown["outputs"]).items():
            np.testing.assert_allclose(printed, case.expected[name], atol=2e-5)
        if form["signature"] == "serving_default":
            assert shown["pixels"] is None
            continue
        assert shown["layers"] == list(case.expected)
        weights = case.expected[shown["layers"][0]]
        weights = weights[form.get("row", 0), form.get("head", 0)]
        np.testing.assert_array_equal(drawn(shown["pixels"]), weights > 0)
        red = np.array(shown["pixels"])[..., 0]
        shade = 235 - 227 * weights / weights.max()
        np.testing.assert_allclose(red[weights > 0], shade[weights > 0], atol=1)


def drawn(pixels):
    """Whether each pixel was painted: fully, or not at all."""
    alpha = np.array(pixels)[..., 3]
    assert set(np.unique(alpha)) <= {0, 255}
    return alpha > 0


def printed_in(text):
    """Name to array, of a text of `name: type [shape]` and the values below."""
    printed = {}
    for block in text.split("\n\n"):
        title, _, values = block.partition("\n")
        name, _, shape = title.partition(": float32 ")
        printed[name] = np.array(json.loads(values))
        assert list(printed[name].shape) == json.loads(shape)
    return printed


def test_wrong_requests_are_refused_with_the_reason(ask):
    ids, zeros, keep = [[1, 2, 3]], [[0, 0, 0]], [[True, True, False]]
    right = {"token_ids": ids, "segment_ids": zeros, "padding_mask": keep}
    long = {name: [value[0] * 21] for name, value in right.items()}
    wrong = {
        "integers from 0 to 65. Received: 66": {**right, "token_ids": [[1, 2, 66]]},
        "from 0 to 65. Received: -1": {**right, "token_ids": [[1, 2, -1]]},
        "from 0 to 65. Received: 1.5": {**right, "token_ids": [[1, 2, 1.5]]},
        "padding_mask: bool. Received: 2": {**right, "padding_mask": [[1, 1, 2]]},
        "sequence <= 61": long,
        "one size per axis in all inputs": {**right, "segment_ids": [[0, 0]]},
        "of shape [batch, sequence]": {**right, "token_ids": [1, 2, 3]},
        "Expected rows of one length": {**right, "token_ids": [[1, 2, 3], [1]]},
        "Received: token_ids": {"token_ids": ids},
        "Received: \n": [],
    }
    questions = [{"signature": "attention", "inputs": x} for x in wrong.values()]
    questions += [{"signature": "embed", "inputs": right}]
    questions += [{"signature": "attention", "inputs": right}]
    *refused, unknown, answered = ask("opset-23", questions)["answers"]
    for reason, answer in zip(wrong, refused, strict=True):
        assert "outputs" not in answer, reason
        assert reason in answer["error"] + "\n"
    assert "serving_default, attention. Received: embed" in unknown["error"]
    assert answered["outputs"].keys() == {"block_0_attention", "block_1_attention"}


def test_an_error_leaves_the_map_and_a_phone_shows_all_of_the_page(site, ask):
    artifact = site[0] / "opset-23"
    (case,) = (
        x
        for x in cases_of(artifact)
        if (x.signature, x.name) == ("attention", "batch 3, length 7, left padding")
    )
    inputs = question(case)["inputs"]
    right = {"signature": "attention", "text": json.dumps(inputs)}
    inputs = {**inputs, "token_ids": [[99] * 7] * 3}
    wrong = {**right, "text": json.dumps(inputs), "stays": True}
    said = ask(artifact.name, forms=[right, wrong])
    shown, refused = said["forms"]
    assert "Received: 99" in refused["alert"]
    assert refused["pixels"] == shown["pixels"]
    assert refused["outputs"] == shown["outputs"] != ""
    assert said["phone"]["width"] <= 380
    assert said["phone"]["cell"].startswith("Query ")


def test_a_changed_file_and_a_missing_one_are_refused(site, ask):
    changed = site[0] / "changed"
    shutil.copytree(site[0] / "opset-18", changed)
    with (changed / "attention.onnx").open("ab") as file:
        file.write(b"\0")
    alert = ask("changed")["start"]["alert"]
    assert "attention.onnx is not the file that was exported" in alert
    missing = "Failed to load resource: the server responded with a status of 404"
    said = ask("nowhere", complaints=[f"{missing} (File not found)"])
    assert "A file of the artifact is missing" in said["start"]["alert"]
    assert "/nowhere/manifest.json" in said["start"]["alert"]
