import keras
import numpy as np
import pytest
from contracts.kinds import relative_error, to_numpy
from oracle import drawn

import keras_attention as ka

IDS = np.array([[5, 3, 8, 1, 9], [2, 7, 1, 0, 0]])
MASK = drawn("1 1 1 1 1\n1 1 1 . .")


def sentence_encoder(tokenizer=None, **kwargs):
    encoder = ka.BertEncoder(
        13, num_layers=1, num_heads=2, hidden_dim=6, intermediate_dim=11, pooler=False
    )
    return ka.SentenceEncoder(encoder, tokenizer, **kwargs)


def words(texts):
    """A tokenizer for tests: one id a letter, a is 0."""
    length = max(len(text) for text in texts)
    rows = [[ord(letter) - ord("a") for letter in text] for text in texts]
    ids = np.array([row + [0] * (length - len(row)) for row in rows])
    mask = np.array([[i < len(row) for i in range(length)] for row in rows])
    return {"token_ids": ids, "padding_mask": mask}


def test_the_embedding_is_the_scaled_mean_of_non_padding_tokens():
    model = sentence_encoder()
    outputs = to_numpy(model({"token_ids": IDS, "padding_mask": MASK}))
    sequence = outputs["sequence_output"].astype("float64")
    for row in range(2):
        mean = sequence[row, MASK[row]].mean(axis=0)
        expected = mean / np.sqrt(mean @ mean)
        assert relative_error(outputs["sentence_embedding"][row], expected) <= 1e-6
    plain = ka.SentenceEncoder(model.encoder, normalize=False)
    embedding = to_numpy(plain(IDS, padding_mask=MASK))["sentence_embedding"]
    assert relative_error(embedding[0], sequence[0].mean(axis=0)) <= 1e-6


@pytest.mark.parametrize("pooling", ["cls", "max", "mean_sqrt_len"])
def test_other_poolings_are_those_of_sentence_transformers(pooling):
    model = sentence_encoder(pooling=pooling, normalize=False)
    outputs = to_numpy(model({"token_ids": IDS, "padding_mask": MASK}))
    for row, mask in enumerate(MASK):
        tokens = outputs["sequence_output"][row, mask].astype("float64")
        expected = {
            "cls": tokens[0],
            "max": tokens.max(axis=0),
            "mean_sqrt_len": tokens.sum(axis=0) / np.sqrt(len(tokens)),
        }[pooling]
        assert relative_error(outputs["sentence_embedding"][row], expected) <= 1e-6
    nothing = model(IDS, padding_mask=MASK & False)["sentence_embedding"]
    assert (to_numpy(nothing) == 0).all()
    assert type(model).from_config(model.get_config()).pooling == pooling


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match=r"`pooling`.*Received: pooling='last'"):
        sentence_encoder(pooling="last")


def test_padding_changes_nothing_and_a_row_of_padding_gives_zero():
    model = sentence_encoder()
    padded = to_numpy(model(IDS, padding_mask=MASK))["sentence_embedding"]
    alone = to_numpy(model(IDS[1:, :3]))["sentence_embedding"]
    assert relative_error(padded[1:], alone) <= 1e-6
    nothing = model(IDS, padding_mask=MASK & False)["sentence_embedding"]
    assert (to_numpy(nothing) == 0).all()


def test_encode_keeps_the_order_of_the_texts():
    model = sentence_encoder(words)
    texts = ["cab", "m", "abcdefg", "bad", "ll"]
    vectors = model.encode(texts, batch_size=2, verbose=False)
    assert vectors.dtype == "float32"
    for text, vector in zip(texts, vectors, strict=True):
        alone = to_numpy(model(words([text])))["sentence_embedding"][0]
        assert relative_error(vector, alone) <= 1e-5
    assert model.encode([], verbose=False).shape == (0, 6)


def test_encode_refuses_a_missing_tokenizer_and_a_single_text():
    with pytest.raises(ValueError, match=r"`tokenizer=`.*Received: tokenizer=None"):
        sentence_encoder().encode(["a"])
    with pytest.raises(ValueError, match=r"list of texts.*Received: texts='a'"):
        sentence_encoder(words).encode("a")


def test_saving_and_loading_changes_no_bit(tmp_path):
    model = sentence_encoder(normalize=False)
    expected = to_numpy(model(IDS))["sentence_embedding"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(IDS)["sentence_embedding"], expected)
    assert loaded.normalize is False


@pytest.mark.tensorflow
def test_an_export_from_text_has_the_default_prompt_too():
    import tensorflow as tf
    from samples import VOCABULARY, small_bert

    from keras_attention.export.signatures.catalogue import signatures_of

    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    settings = {"prompts": {"query": "the "}, "default_prompt_name": "query"}
    dense = [{"units": 5, "activation": "tanh"}]
    encoder = small_bert(num_layers=1)
    model = ka.SentenceEncoder(encoder, tokenizer, dense=dense, **settings)
    served, *_ = signatures_of(model)
    texts = ["animal", "a street!"]
    answer = served.function(text=tf.constant(texts))["sentence_embedding"]
    expected = model.encode(texts)
    assert relative_error(to_numpy(answer), expected) <= 1e-5
    alone = model.encode(["the animal", "the a street!"], prompt="")
    assert relative_error(alone, expected) <= 1e-5
    assert relative_error(model.encode(texts, prompt=""), expected) > 1e-3
    left_out = ka.SentenceEncoder(encoder, tokenizer, include_prompt=False, **settings)
    with pytest.raises(ValueError, match=r"Received: include_prompt=False"):
        signatures_of(left_out)
