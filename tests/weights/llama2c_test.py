"""llama2.c's file format, and a real small model of it, beside a loop of numpy."""

import os
from pathlib import Path

import numpy as np
import pytest

import keras_attention as ka

SIZES = [24, 17, 2, 4, 2, 13, 11]  # dim, hidden, layers, heads, groups, vocabulary, T


def arrays_of(header, seed=1):
    """Random arrays in the order of the file, by name."""
    dim, hidden, layers, heads, groups, vocabulary, length = header
    size = dim // heads
    shapes = {
        "embedding": (abs(vocabulary), dim),
        "attention_norm": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, groups * size, dim),
        "wv": (layers, groups * size, dim),
        "wo": (layers, dim, dim),
        "ffn_norm": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "norm": (dim,),
        "cosines": (length, size // 2),
        "sines": (length, size // 2),
    }
    if vocabulary < 0:
        shapes["output"] = (abs(vocabulary), dim)
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.3, s).astype("f4") for name, s in shapes.items()}


def write(path, header, arrays):
    parts = [np.array(header, "<i4").tobytes(), *(a.tobytes() for a in arrays.values())]
    path.write_bytes(b"".join(parts))


def read(path):
    header = np.fromfile(path, "<i4", 7).tolist()
    numbers, arrays = np.fromfile(path, "<f4", offset=28), arrays_of(header)
    start = 0
    for name, array in arrays.items():
        arrays[name] = numbers[start : start + array.size].reshape(array.shape)
        start += array.size
    assert start == numbers.size
    return header, arrays


class Loop:
    """Llama in float64, token by token, in NumPy, without code of this package."""

    def __init__(self, header, arrays):
        self.dim, _, self.layers, self.heads, self.groups, _, _ = header
        self.w = {name: array.astype("f8") for name, array in arrays.items()}
        self.size = self.dim // self.heads
        self.past = [([], []) for _ in range(self.layers)]
        self.position = 0

    def norm(self, x, gain):
        return x / np.sqrt(np.mean(x * x) + 1e-5) * gain

    def turn(self, x):
        pairs = x.reshape(-1, self.size // 2, 2)
        angle = self.position * 10000.0 ** (-np.arange(0, self.size, 2) / self.size)
        cosine, sine = np.cos(angle), np.sin(angle)
        a, b = pairs[..., 0], pairs[..., 1]
        turned = np.stack([a * cosine - b * sine, a * sine + b * cosine], axis=-1)
        return turned.reshape(-1, self.size)

    def step(self, token):
        w, x = self.w, self.w["embedding"][token].copy()
        for layer in range(self.layers):
            y = self.norm(x, w["attention_norm"][layer])
            query = self.turn(w["wq"][layer] @ y)
            keys, values = self.past[layer]
            keys.append(self.turn(w["wk"][layer] @ y))
            values.append((w["wv"][layer] @ y).reshape(-1, self.size))
            heads = []
            for head in range(self.heads):
                group = head // (self.heads // self.groups)
                scores = np.array([k[group] @ query[head] for k in keys])
                weights = np.exp((scores - scores.max()) / np.sqrt(self.size))
                weights = weights / weights.sum()
                heads.append(sum(p * v[group] for p, v in zip(weights, values)))  # noqa: B905
            x = x + w["wo"][layer] @ np.concatenate(heads)
            y = self.norm(x, w["ffn_norm"][layer])
            gate, up = w["w1"][layer] @ y, w["w3"][layer] @ y
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * up)
        self.position += 1
        return w.get("output", w["embedding"]) @ self.norm(x, w["norm"])


@pytest.fixture(params=[13, -13], ids=["one table", "a head of its own"])
def file(request, tmp_path):
    header = [*SIZES[:5], request.param, SIZES[6]]
    write(tmp_path / "model.bin", header, arrays_of(header))
    return tmp_path / "model.bin"


def test_every_logit_is_that_of_a_loop_in_numpy(file):
    model, loop = ka.from_pretrained(file, task="backbone"), Loop(*read(file))
    ids = [1, 5, 12, 0, 7]
    expected = np.array([loop.step(token) for token in ids])
    ours = np.asarray(model(np.array([ids]))["logits"])[0]
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
    assert set(model.load_report.ignored) == {"freq_cis_real", "freq_cis_imag"}


def test_it_is_saved_as_llama_of_hugging_face(file, tmp_path):
    model = ka.from_pretrained(file, task="backbone")
    ka.save_pretrained(model, tmp_path / "llama")
    again = ka.from_pretrained(tmp_path / "llama", task="backbone")
    ids = np.array([[1, 5, 12, 0, 7]])
    np.testing.assert_array_equal(model(ids)["logits"], again(ids)["logits"])


@pytest.mark.parametrize("end", [0, 11, 27, 28, 1000, -1])
def test_an_incomplete_file_is_refused(file, end):
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(ValueError, match=r"llama2.c|incomplete") as caught:
        ka.from_pretrained(file, task="backbone")
    assert "Received:" in str(caught.value)


def test_a_pickle_of_that_name_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(range(200)))
    with pytest.raises(ValueError, match=r"not one of llama2\.c.*Received:"):
        ka.from_pretrained(tmp_path / "pytorch_model.bin", task="backbone")


def stories_file():
    """Returns stories260K.bin of karpathy/tinyllamas, or skips with the reason."""
    named = os.environ.get("KERAS_ATTENTION_STORIES260K", "")
    if not Path(named).is_file():
        pytest.skip("KERAS_ATTENTION_STORIES260K must name stories260K.bin")
    return Path(named)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cached", [True, False], ids=["through the cache", "anew"])
def test_a_real_model_generates_the_same_200_tokens(cached, record_property):
    path = stories_file()
    loop, expected, margins = Loop(*read(path)), [1], []
    for _ in range(200):
        logits = loop.step(expected[-1])
        expected.append(int(np.argmax(logits)))
        margins.append(np.diff(np.sort(logits)[-2:])[0])
    model = ka.from_pretrained(path, task="backbone")
    found, cache = [1], model.empty_cache(1, ka.FixedKVCache, capacity=201)
    if cached:
        for _ in range(200):
            outputs = model(np.array([found[-1:]]), cache=cache)
            cache = outputs["cache"]
            found.append(int(np.argmax(outputs["logits"][0, -1])))
    else:  # in one call: each prefix of the story must give its next token
        logits = np.asarray(model(np.array([expected[:-1]]))["logits"])[0]
        found += np.argmax(logits, axis=-1).tolist()
    assert found == expected
    record_property(
        "summary",
        f"stories260K: 200 of 200 tokens; the closest choice by {min(margins):.4f}",
    )
