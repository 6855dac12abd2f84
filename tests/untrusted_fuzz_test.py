"""Damage to files of every kind: only our own errors, short, at once, in little memory.

The slow tier tries more than 100,000 files; `tests/serving/fuzz_test.py` has requests.
"""

import io
import json
import struct
import warnings
import zipfile

import numpy as np
import pytest
from fuzzing import RAW, as_json, check, damaged_bytes, damaged_json
from hypothesis import strategies as st
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.manifest import read_manifest, write_manifest
from keras_attention.export.cases.arrays import read_arrays
from keras_attention.export.cases.grid import Case, load_cases, save_cases
from keras_attention.export.signatures.signature import Signature
from keras_attention.text.patterns import byte_characters
from keras_attention.weights import files, llama2c
from keras_attention.weights.sentence_hf import open_sentence

pytestmark = pytest.mark.tensorflow


def examples(many, few=10):
    """Few inputs in the quick tier, more in the slow one, many with `make fuzz`."""
    more = pytest.param(many // 20, marks=pytest.mark.slow)
    all_of_them = pytest.param(many, marks=[pytest.mark.fuzz, pytest.mark.timeout(0)])
    return pytest.mark.parametrize("examples", [few, more, all_of_them])


@examples(20_000)
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
    check(damaged_json(base), path, lambda: read_manifest(tmp_path), examples)


@examples(10_000)
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

    inputs = damaged_bytes(whole) | damaged_json(base).map(file)
    check(inputs, path, lambda: load_cases(path), examples)


@st.composite
def archives(draw):
    """A zip file of arrays whose headers say something else than their data."""
    buffer = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for _ in range(draw(st.integers(0, 3))):
            name = draw(st.sampled_from(["a.npy", "b.npy", "b", "../c.npy", "ä.npy"]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a name that is there twice
                archive.writestr(name, draw(arrays()))
    data = buffer.getvalue()
    return draw(damaged_bytes(data)) if draw(st.booleans()) else data


@st.composite
def arrays(draw):
    """An array in the format of NumPy."""
    dtypes = ["<f4", ">i8", "|b1", "<U2", "|S3", "|V2", "|O", "<M8[s]", "<U99999999"]
    dtypes += [
        "|V0",
        "<c16",
        "[('a', '<f4')]",
        "('<f4', (2,))",
        "x" * 999,
        "__import__",
    ]
    sizes = st.sampled_from([0, 1, 2, 3, 2**31, 2**62, 2**64, -1, 0.5, True, None, "a"])
    shape = tuple(draw(st.lists(sizes, max_size=3))) * draw(st.sampled_from([1, 1, 12]))
    described = {"descr": draw(st.sampled_from(dtypes)), "fortran_order": False}
    described["shape"] = draw(st.just(shape) | st.sampled_from([(2,), (2, 3)]))
    if draw(st.integers(0, 4)) == 0:
        described |= {"fortran_order": draw(st.sampled_from([True, 1, "x"]))}
    text = repr(described).encode() + b" " * draw(st.sampled_from([0, 9, 70_000]))
    if draw(st.integers(0, 4)) == 0:
        text = draw(
            st.sampled_from([b"(" * 5000, b"{" * 99, b"lambda: 0", b"-" * 9999])
        )
    version = draw(st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\0\0", b"\xff\xff"]))
    length = draw(st.just(len(text)) | st.sampled_from([0, 7, 2**16 - 1, 2**32 - 1]))
    if version == b"\1\0":
        size = struct.pack("<H", min(length, 2**16 - 1))
    else:
        size = struct.pack("<I", length)
    return b"\x93NUMPY" + version + size + text + draw(st.binary(max_size=24))


@examples(10_000)
def test_arrays(tmp_path, examples):
    path = tmp_path / "cases.npz"
    check(archives(), path, lambda: read_arrays(path), examples)


@examples(20_000)
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

    whole = file(json.dumps(base).encode())
    inputs = damaged_json(base).map(file) | damaged_bytes(whole)

    def read():
        for tensor in files.read_header(path).values():
            np.asarray(tensor)

    check(inputs, path, read, examples)


@examples(10_000)
def test_indices_of_shards(tmp_path, examples):
    from safetensors.numpy import save_file

    places = {}
    for name in "ab":
        save_file({name: np.ones(3)}, tmp_path / f"{name}.safetensors")
        places[name] = f"{name}.safetensors"
    base = {"metadata": {"total_size": 48}, "weight_map": places}
    path = tmp_path / files.INDEX
    check(damaged_json(base), path, lambda: files.open_tensors(tmp_path), examples)


@examples(5_000)
def test_headers_of_llama2c(tmp_path, examples):
    path = tmp_path / "model.bin"
    sizes = (2, 3, 1, 1, 1, 5, 7)
    whole = struct.pack("<7i", *sizes) + bytes(4 * 400)
    number = st.sampled_from([0, 1, -1, 2, 3, 7, 9999, 2**20, 2**31 - 1, -(2**31)])
    headers = st.tuples(*[number] * 7).map(lambda n: struct.pack("<7i", *n) + bytes(99))
    check(headers | damaged_bytes(whole), path, lambda: llama2c.read(path), examples)


@pytest.fixture(scope="module", params=["WordPiece", "BPE"])
def tokenizer_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "WordPiece":
        tokens = [*VOCABULARY[:5], "a", "##b", "c"]
        tokenizer = ka.WordPieceTokenizer(tokens)
    else:
        letters = list(byte_characters().values())
        vocabulary = ["<s>", "</s>", *letters, "ab"]
        roles = {"bos": "<s>", "eos": "</s>"}
        tokenizer = ka.BytePairTokenizer(
            vocabulary, [["a", "b"]], special_tokens=roles, template={"end": ["</s>"]}
        )
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@examples(2_500, 4)
def test_tokenizers(tokenizer_folder, name, examples):
    path = tokenizer_folder / name
    before = path.read_bytes()
    load = lambda: ka.load_tokenizer(tokenizer_folder)  # noqa: E731
    load()
    try:
        check(damaged_json(json.loads(before)), path, load, examples)
    finally:
        path.write_bytes(before)


@st.composite
def damaged_lines(draw, lines):
    """Lines of text of which some are moved, joined, repeated, or removed."""
    lines = list(lines)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        kind = draw(st.sampled_from(["replace", "remove", "repeat", "move"]))
        odd = ["", " ", "\r", "a b c", "\x00", "\x1b[2J", "a" * 9999, "\u2028", "[UNK]"]
        if kind == "replace" or not lines:
            lines[at : at + 1] = [draw(st.sampled_from(odd) | st.text(max_size=4))]
        elif kind == "remove":
            del lines[at]
        elif kind == "repeat":
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        else:
            lines.append(lines.pop(at))
    data = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"])).join(lines)
    data = data.encode("utf-8", "surrogatepass")
    return draw(damaged_bytes(data)) if draw(st.integers(0, 4)) == 0 else data


@examples(2_500, 4)
def test_vocabularies_as_text(tmp_path, examples):
    lines = [*VOCABULARY[:5], "a", "##b", "c"]
    path = tmp_path / "vocab.txt"
    load = lambda: ka.load_tokenizer(tmp_path)  # noqa: E731
    path.write_text("\n".join(lines))
    load()
    check(damaged_lines(lines), path, load, examples)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json"])
@examples(1_500, 4)
def test_merges_as_text(tmp_path, name, examples):
    ids = {letter: i for i, letter in enumerate([*byte_characters().values(), "ab"])}
    ids["<|endoftext|>"] = len(ids)
    lines = ["#version: 0.2", "a b", ""]
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("\n".join(lines))
    load = lambda: ka.load_tokenizer(tmp_path)  # noqa: E731
    load()
    inputs = damaged_lines(lines) if name == "merges.txt" else damaged_json(ids)
    check(inputs, tmp_path / name, load, examples)


@pytest.fixture(scope="module")
def sentence_piece():
    """A small unigram model."""
    trained = io.BytesIO()
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sees a house", "two fish and a cat"] * 50),
        model_writer=trained,
        vocab_size=21,
        minloglevel=2,
    )
    return trained.getvalue()


@st.composite
def damaged_models(draw, model):
    """A model of SentencePiece with other pieces and settings."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    proto = messages.ModelProto.FromString(model)
    texts = ["", "\x00", "\x1b[2J", "<s>", "\u2581", "<0x41>", "x" * 9999, "\ud7ff"]
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["piece", "remove", "repeat", "setting", "none"]))
        at = draw(st.integers(0, max(0, len(proto.pieces) - 1)))
        if kind == "remove" and proto.pieces:
            del proto.pieces[at]
        elif kind == "repeat" and proto.pieces:
            proto.pieces.add().CopyFrom(proto.pieces[at])
        elif kind == "piece" and proto.pieces:
            piece = proto.pieces[at]
            piece.piece = draw(st.sampled_from(texts) | st.just(piece.piece))
            piece.type = draw(st.integers(1, 6))
            piece.score = draw(st.sampled_from([0, 1e30, -1e30, np.nan, np.inf]))
        elif kind == "setting":
            spec = proto.trainer_spec
            spec.model_type = draw(st.integers(1, 4))
            spec.unk_id = draw(st.sampled_from([0, -1, 5, 10**9, -(2**31)]))
            spec.byte_fallback = draw(st.booleans())
            normalizer = proto.normalizer_spec
            normalizer.precompiled_charsmap = draw(st.binary(max_size=9))
        else:
            proto.ClearField(draw(st.sampled_from(["trainer_spec", "normalizer_spec"])))
    data = proto.SerializeToString()
    return draw(damaged_bytes(data)) if draw(st.integers(0, 4)) == 0 else data


# A few only: one of some thousand damaged models ends the process in tensorflow_text
# (a segmentation fault), which SECURITY.md does not promise to prevent.
@pytest.mark.parametrize("examples", [4])
def test_models_of_sentence_piece(tmp_path, sentence_piece, examples):
    path = tmp_path / "spiece.model"

    def load():
        ka.SentencePieceTokenizer(str(path))(["a cat"])

    path.write_bytes(sentence_piece)
    load()
    check(damaged_models(sentence_piece), path, load, examples)


@examples(2_500, 5)
def test_configs(tmp_path, examples):
    ka.save_pretrained(small_bert(num_layers=1), tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    base = json.loads(path.read_text())

    def load():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ka.from_pretrained(tmp_path / "bert")

    load()
    check(damaged_json(base), path, load, examples)


@examples(2_500, 3)
def test_configs_of_a_language_model(tmp_path, examples):
    model = ka.GPTDecoder(
        13,
        1,
        3,
        33,
        47,
        max_sequence_length=29,
        position={"max_wavelength": 700.0},
        normalization="rms",
        activation="silu",
        gated=True,
        use_bias=False,
        num_key_value_heads=1,
        key_dim=10,
        dropout=0.0,
    )
    ka.save_pretrained(model, tmp_path)
    path = tmp_path / "config.json"
    base = json.loads(path.read_text())
    base["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}

    def load():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ka.from_pretrained(tmp_path)

    check(damaged_json(base), path, load, examples)


SENTENCE_MODEL = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "models.Pooling"},
    ],
    "1_Pooling/config.json": {
        "pooling_mode_mean_tokens": True,
        "word_embedding_dimension": 33,
    },
    "sentence_bert_config.json": {"max_seq_length": 61},
}


@pytest.mark.parametrize("name", SENTENCE_MODEL)
@examples(3_000)
def test_settings_of_sentence_models(tmp_path, name, examples):
    (tmp_path / "1_Pooling").mkdir()
    for file, base in SENTENCE_MODEL.items():
        (tmp_path / file).write_text(json.dumps(base))
    found = open_sentence(tmp_path)
    assert (found.arguments["pooling"], found.max_length) == ("mean", 61)
    inputs = damaged_json(SENTENCE_MODEL[name])
    check(inputs, tmp_path / name, lambda: open_sentence(tmp_path), examples)


def test_the_fuzzer_writes_what_json_cannot():
    """Without it, the damage would be only what `json.dumps` can write."""
    whole = {"a": [f"\x01{number}\x01" for number in range(len(RAW))]}
    data = as_json(whole)
    assert b"NaN" in data
    assert b'"\\ud800"' in data
    with pytest.raises(ValueError, match="limit"):
        json.loads(data)
