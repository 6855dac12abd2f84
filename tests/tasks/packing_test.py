"""Packed rows train as the texts alone do."""

import keras
import numpy as np
import pytest

import keras_attention as ka
from keras_attention.ops.positions import positions_in_documents
from keras_attention.tasks.batches import IGNORED, padded_rows
from keras_attention.tasks.packing import packed_rows

LENGTHS = (7, 3, 5, 1, 9, 2, 4, 6)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": 12,
    "dropout": 0.0,
}


def texts_of_rows():
    return texts()[0]


def texts():
    random = np.random.default_rng(0)
    rows = [{"token_ids": random.integers(1, 30, length)} for length in LENGTHS]
    return rows, [random.integers(1, 30, length) for length in LENGTHS]


def test_best_fit_wastes_no_row():
    rows, targets = texts()
    packed, packed_targets = packed_rows(rows, targets, length=12)

    assert [len(row["token_ids"]) for row in packed] == [12, 12, 12, 1]
    assert [row["document_ids"].tolist() for row in packed[:2]] == [
        [1] * 9 + [2] * 3,
        [1] * 7 + [2] * 5,
    ]
    found = {
        tuple(row["token_ids"][row["document_ids"] == document]): tuple(
            target[row["document_ids"] == document]
        )
        for row, target in zip(packed, packed_targets, strict=True)
        for document in set(row["document_ids"].tolist())
    }
    assert found == {
        tuple(row["token_ids"]): tuple(target)
        for row, target in zip(rows, targets, strict=True)
    }


def test_a_text_that_fits_no_row_is_named():
    with pytest.raises(ValueError, match=r"Received: rows of 8 tokens, a text of 9"):
        packed_rows(*texts(), length=8)


@pytest.mark.parametrize("padding_first", [False, True])
def test_positions_begin_anew_in_each_document(padding_first):
    ids = [[1, 1, 1, 2, 2, 3, 0, 0]]
    positions = [[0, 1, 2, 0, 1, 0, -1, -1]]
    if padding_first:
        ids, positions = [[0, 0, 1, 1, 1, 2, 2, 3]], [[-1, -1, 0, 1, 2, 0, 1, 0]]
    ids = np.array(ids)
    found = positions_in_documents(ids, ids > 0)

    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), positions)


DECODERS = {
    "learned": {},
    "rotary": {"position": "rotary", "normalization": "rms", "gated": True},
    "windows": {"position": "rotary", "sliding_window": [3, None]},
    "grouped": {"num_key_value_heads": 1, "sliding_window": 4},
}
ENCODERS = {"bert": {}, "roberta": {"position_offset": 2, "num_segments": 0}}


def task(kind):
    keras.utils.set_random_seed(0)
    if kind in DECODERS:
        return ka.CausalLM(ka.GPTDecoder(**SIZES, **DECODERS[kind]))
    return ka.MaskedLM(ka.BertEncoder(**SIZES, pooler=False, **ENCODERS[kind]))


def loss_and_gradients(model, rows, targets):
    inputs = padded_rows(rows, {})
    width = inputs["token_ids"].shape[1]
    labels = [np.pad(x, (0, width - len(x)), constant_values=IGNORED) for x in targets]
    labels = np.stack(labels)
    model.compile(keras.optimizers.SGD(1.0), **model.compile_arguments())
    before = [np.array(weight) for weight in model.trainable_weights]
    loss = model.train_on_batch(inputs, labels)
    loss = loss[0] if isinstance(loss, list) else loss
    after = [np.array(weight) for weight in model.trainable_weights]
    logits = model.predict_on_batch(inputs)[labels != IGNORED]
    return loss, [new - old for new, old in zip(after, before, strict=True)], logits


QUICK = ("windows", "roberta")  # restarting positions, in a window and behind an offset
KINDS = [
    kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow)
    for kind in (*DECODERS, *ENCODERS)
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_the_gradients_are_those_of_the_texts_alone(kind):
    rows, targets = texts()
    loss, gradients, _ = loss_and_gradients(task(kind), rows, targets)
    packed = packed_rows(rows, targets, length=12)
    packed_loss, packed_gradients, _ = loss_and_gradients(task(kind), *packed)

    assert packed_loss == pytest.approx(loss, abs=1e-6)
    for one, other in zip(packed_gradients, gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_causal_decoder_trains_on_packed_texts():
    keras.utils.set_random_seed(0)
    model = task("windows")
    texts = [row["token_ids"].tolist() for row in texts_of_rows()]
    alone = model.batches(texts, shuffle=False, batch_size=8)
    packed = model.batches(texts, packing=True, batch_size=8)
    model.compile("adam", **model.compile_arguments())
    first = model.evaluate(packed, verbose=0)

    numbers = range(packed.num_batches)
    assert {packed[i][0]["token_ids"].shape[1] for i in numbers} == {12}
    assert first == pytest.approx(model.evaluate(alone, verbose=0), rel=1e-5)
    model.fit(packed, epochs=3, verbose=0)
    assert model.evaluate(alone, verbose=0)[0] < first[0]


def test_tokens_of_packed_texts_are_hidden():
    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=12)
    backbone = ka.BertEncoder(**{**SIZES, "vocabulary_size": len(VOCABULARY)})
    model = ka.MaskedLM(backbone, tokenizer)
    batches = model.batches(["a b c", "b", "c a", "a a b c"], packing=True)
    inputs, labels = batches[0]

    np.testing.assert_array_equal(
        inputs["document_ids"][:, :7], [[1] * 4 + [2] * 3, [1] * 6 + [2]]
    )
    assert not np.isin(labels, [0, 2, 3]).any()
    assert (labels[~inputs["padding_mask"]] == IGNORED).all()
    assert inputs["token_ids"].shape == labels.shape == (2, 12)
    logits = model.predict_on_batch(inputs)
    assert logits.shape == (2, 12, len(VOCABULARY))


def test_a_document_is_one_of_a_whole_sequence_and_of_labels_per_token():
    decoder = task("learned").decoder
    ids = np.array([[3, 4, 5]])
    with pytest.raises(ValueError, match="`document_ids` are for whole sequences"):
        decoder(ids, cache=decoder.empty_cache(1), document_ids=ids)
    backbone = ka.BertEncoder(**SIZES)
    classifier = ka.TextClassifier(backbone, ["a", "b"])
    with pytest.raises(ValueError, match="one label per token"):
        classifier(ids, document_ids=ids)
