"""Random damage to files of every kind: only our own errors, short and at once."""

import copy
import io
import json
import time
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.manifest import read_manifest, write_manifest
from keras_attention.export.cases.grid import Case, load_cases, save_cases
from keras_attention.export.signatures.signature import Signature
from keras_attention.text.patterns import byte_characters
from keras_attention.weights import files

EXAMPLES = [25, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(0)])]
pytestmark = pytest.mark.tensorflow

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**31, 10**9, 10**12, 10**40, -(10**12), 1e300, 0.5, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "..", "/x", "\x00", "\x1b[2J", "F32", "bert", "$", "x" * 9999]
    )
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.just("type"), inner, max_size=3)
    ),
    max_leaves=5,
)


def places_of(value, place=()):
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places_of(value[key], (*place, key))


@st.composite
def damaged(draw, base):
    """Returns JSON in which a few values are replaced, removed, added or cut."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places_of(value))[1:] or [(0,)]))
        inner = value
        for key in parents:
            inner = inner[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "remove":
            del inner[last]
        elif kind == "add" and isinstance(inner, dict):
            inner[draw(st.text(max_size=3))] = draw(VALUES)
        else:
            inner[last] = draw(VALUES)
        if not value:
            break
    data = json.dumps(value).encode()
    return draw(damaged_bytes(data)) if draw(st.integers(0, 9)) == 0 else data


@st.composite
def damaged_bytes(draw, data):
    at = draw(st.integers(0, len(data)))
    end = draw(st.integers(at, min(len(data), at + 9)))
    return data[:at] + draw(st.binary(max_size=9)) + data[end:]


def check(inputs, path, read, examples, most_seconds=1.0):
    """Writes each input to a file and requires that reading returns, or refuses it."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 100,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(inputs)
    def run(data):
        path.write_bytes(data)
        begin, text = time.process_time(), "Received:"
        try:
            read()
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
        assert "Received:" in text, text
        assert len(text) <= 2000
        assert not set(text) & {"\x00", "\x1b"}
        assert time.process_time() - begin < most_seconds

    run()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_manifests(tmp_path, examples):
    info = TensorInfo("int32", ("batch", 5))
    signature = Signature(
        "f",
        lambda a: {"b": a},
        {"a": info},
        {"b": info},
        limits={"a": 5},
        max_lengths={"batch": 3},
    )
    (tmp_path / "graph").write_text("x")
    case = {"signature": "f", "passed": True}
    write_manifest(
        tmp_path,
        format="onnx",
        signatures=[signature],
        weights_bytes=3,
        verification=[case],
        op_libraries=["a.so"],
    )
    path = tmp_path / "manifest.json"
    base = json.loads(path.read_text())
    check(damaged(base), path, lambda: read_manifest(tmp_path), examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_verification_cases(tmp_path, examples):
    path = tmp_path / "cases.npz"
    case = Case("f", "one", {"text": ["a"], "x": np.ones(3)}, {"y": np.array(["b"])})
    save_cases([case], path)
    whole = path.read_bytes()
    with np.load(path) as stored:
        arrays = dict(stored)
    base = json.loads(arrays["index"].tobytes())

    def file(index):
        buffer = io.BytesIO()
        changed = {**arrays, "index": np.frombuffer(index, np.uint8)}
        np.savez_compressed(buffer, allow_pickle=False, **changed)
        return buffer.getvalue()

    inputs = damaged_bytes(whole) | damaged(base).map(file)
    check(inputs, path, lambda: load_cases(path), examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_headers_of_safetensors(tmp_path, examples):
    path = tmp_path / "model.safetensors"
    base = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
        "c": {"dtype": "I64", "shape": [0, 5], "data_offsets": [26, 26]},
    }

    def file(header):
        return len(header).to_bytes(8, "little") + header + bytes(26)

    inputs = damaged(base).map(file) | damaged_bytes(file(json.dumps(base).encode()))
    check(inputs, path, lambda: files.read_header(path), examples)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("kind", ["WordPiece", "BPE"])
def test_tokenizers(tmp_path, kind, examples):
    if kind == "WordPiece":
        tokens = [*VOCABULARY[:5], "a", "##b", "c"]
        tokenizer = ka.WordPieceTokenizer(tokens)
    else:
        letters = list(byte_characters().values())
        vocabulary = ["<s>", "</s>", *letters, "ab"]
        roles = {"bos": "<s>", "eos": "</s>"}
        tokenizer = ka.BytePairTokenizer(
            vocabulary, [["a", "b"]], special_tokens=roles, template={"end": ["</s>"]}
        )
    tokenizer.save(tmp_path)
    examples = max(5, examples // 2) if examples > 100 else 5  # of each file
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / name
        before = path.read_bytes()
        load = lambda: ka.load_tokenizer(tmp_path)  # noqa: E731
        load()
        check(damaged(json.loads(before)), path, load, examples, most_seconds=4.0)
        path.write_bytes(before)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_configs(tmp_path, examples):
    ka.save_pretrained(small_bert(), tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    base = json.loads(path.read_text())

    def load():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ka.from_pretrained(tmp_path / "bert")

    check(damaged(base), path, load, examples, most_seconds=20.0)
