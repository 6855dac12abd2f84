"""Folders of causal models are loaded as a `CausalLM`, with their tokenizer."""

import json

import numpy as np
import pytest
from small_models import LLAMA

import keras_attention as ka

SIZES = {
    "vocabulary_size": 61,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "max_sequence_length": 32,
}
PROMPTS = [[5, 3, 7], [11]]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({}, id="gpt2", marks=pytest.mark.slow),
        pytest.param(LLAMA, id="llama"),
    ],
)
def test_a_saved_causal_model_loads_and_generates_the_same(shape, tmp_path):
    model = ka.CausalLM(ka.GPTDecoder(**SIZES, **shape))
    ka.save_pretrained(model, tmp_path / "lm")
    again = ka.from_pretrained(tmp_path / "lm")
    assert isinstance(again, ka.CausalLM)
    found = again.generate(PROMPTS, max_new_tokens=5)
    for ours, theirs in zip(
        found, model.generate(PROMPTS, max_new_tokens=5), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    alone = ka.from_pretrained(tmp_path / "lm", task="backbone")
    assert isinstance(alone, ka.GPTDecoder)


@pytest.mark.slow
def test_it_is_exported_as_its_decoder(tmp_path):
    pytest.importorskip("tf2onnx")
    model = ka.CausalLM(ka.GPTDecoder(**SIZES, **LLAMA))
    folder = ka.export_model(model, tmp_path / "onnx", "onnx")  # verified
    ids = np.array([[5, 3, 7]])
    past = np.zeros((1, 2, 0, 4), "float32")
    call = {
        f"past_key_values.{i}.{part}": past
        for i in range(2)
        for part in ("key", "value")
    }
    call |= {"input_ids": ids, "attention_mask": ids * 0 + 1}
    with ka.open_artifact(folder) as artifact:
        answers = artifact.run("decoder", **call, position_ids=[[0, 1, 2]])
    np.testing.assert_allclose(answers["logits"], model(ids).numpy(), atol=1e-5)


def bytes_vocabulary(folder, size):
    """Writes the files of a byte-level tokenizer without merges."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in visible}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    tokens = [letters[byte] for byte in range(256)] + ["<|endoftext|>"]
    tokens += [f"<unused{index}>" for index in range(size - len(tokens))]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.mark.usefixtures("eagerly")
def test_text_goes_in_and_comes_out(tmp_path):
    decoder = ka.GPTDecoder(**{**SIZES, "vocabulary_size": 260})
    ka.save_pretrained(decoder, tmp_path / "lm")
    bytes_vocabulary(tmp_path / "lm", 257)  # the model's table is rounded up
    model = ka.from_pretrained(tmp_path / "lm")
    assert model.tokenizer.token_to_id("a") == 97
    (text,) = model.generate(["abc"], max_new_tokens=4)
    assert isinstance(text, str)
    assert model.score(["abc"])["log_probabilities"][0].shape == (2,)
    # With more tokens than positions it is scored in windows, and too long a prompt.
    longer = "abc" * model.decoder.max_sequence_length
    found = model.score([longer])["log_probabilities"]
    assert found[0].shape == (len(longer) - 1,)
    with pytest.raises(ValueError, match="Shorten the prompt"):
        model.generate([longer], max_new_tokens=4)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    ka.save_pretrained(ka.GPTDecoder(**SIZES), tmp_path / "lm")
    bytes_vocabulary(tmp_path / "lm", 257)
    with pytest.raises(ValueError, match="does not fit the model"):
        ka.from_pretrained(tmp_path / "lm")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["GPT2", "Llama", "Mistral", "Qwen2"])
def test_a_model_of_transformers_generates_the_same_tokens(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from parity.transformers.compare import loaded, randomized

    sizes = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 60}
    if family == "GPT2":
        sizes |= {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 64}
    else:
        sizes |= {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"num_key_value_heads": 1, "intermediate_size": 12}
    config = getattr(transformers, f"{family}Config")(**sizes)
    kind = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    reference = randomized(getattr(transformers, family + kind)(config))
    model = loaded(reference, tmp_path / "theirs")
    assert isinstance(model, ka.CausalLM)
    settings = ka.GenerationSettings(max_new_tokens=20, stop_token_ids=(60,))
    for prompt in PROMPTS:
        theirs = reference.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0
        )[0, len(prompt) :]
        (ours,) = model.generate([prompt], settings)
        np.testing.assert_array_equal(ours, theirs.numpy())
