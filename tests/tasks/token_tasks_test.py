"""Tasks that answer about tokens: words, spans, hidden tokens."""

import numpy as np
import pytest
from samples import VOCABULARY, small_bert

import keras_attention as ka
from keras_attention.tasks.batches import IGNORED
from keras_attention.tasks.masking import hide_tokens
from keras_attention.tasks.words import word_spans, words_of_texts

pytest.importorskip("tensorflow_text")
pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("eagerly")]

LABELS = ["O", "B-x", "I-x", "B-y", "I-y"]


def tokenizer(max_length=61):
    return ka.WordPieceTokenizer(VOCABULARY, max_length=max_length)


def tagger(**settings):
    return ka.TokenClassifier(
        small_bert(num_layers=1), LABELS, tokenizer(**settings), dropout=0.0
    )


@pytest.mark.parametrize(
    "text",
    [
        "The animal, tired (a-b) isn't 'x'.",
        "  two   spaces\tand\na line ",
        "Ünïcode — 日本 e\u0301 naïve… “q”",
        "",
    ],
)
def test_words_by_themselves_have_the_tokens_of_the_whole_text(text):
    (words,) = words_of_texts(tokenizer(), [text])
    whole = tokenizer().tokenize([text]).to_list()[0]
    assert words.token_ids.tolist() == whole
    joined = "".join(text[start:end] for start, end in word_spans(text))
    assert joined == "".join(text.split())


def test_only_the_first_token_of_a_word_has_its_label():
    model = tagger()
    batches = model.batches([["the", "cab!", "tired"]], [["O", "B-x", "I-x"]])
    inputs, targets = batches[0]
    tokens = [VOCABULARY[i] for i in inputs["token_ids"][0]]
    expected = ["[CLS]", "the", "c", "##a", "##b", "!", "tired", "[SEP]"]
    assert tokens == expected
    assert targets[0].tolist() == [IGNORED, 0, 1, IGNORED, IGNORED, IGNORED, 2, IGNORED]


def planted(model, monkeypatch, labels):
    """Makes the model predict these labels, one per word, with probability 1."""

    def scores(texts, *_):
        return [np.eye(len(LABELS))[[LABELS.index(x) for x in labels]] for _ in texts]

    monkeypatch.setattr(model, "_word_scores", scores)


def test_entities_have_their_characters_in_the_text(monkeypatch):
    model = tagger()
    planted(model, monkeypatch, ["B-x", "I-x", "B-x", "O", "I-y", "I-x", "I-x"])
    text = "the  animal a, cab tired."
    (found,) = model.tag([text])
    assert [(one["label"], one["text"]) for one in found] == [
        ("x", "the  animal"),
        ("x", "a"),
        ("y", "cab"),
        ("x", "tired."),
    ]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in found)
    assert all(one["score"] == 1.0 for one in found)


def test_a_long_text_is_read_in_parts_and_each_word_once():
    model, sentence = tagger(max_length=13), ["cab", "the", "!"] * 17
    rows = model.batches([sentence], [["B-y", "O", "I-y"] * 17]).rows
    assert max(len(row["token_ids"]) for row in rows) == 13
    targets = np.concatenate(model.batches([sentence], [["B-y"] * 51]).targets)
    assert (targets == 3).sum() == 51
    assert len(model.tag_words([sentence])[0]) == 51
    assert model.tag_words([[]]) == [[]]


def test_the_label_of_a_word_is_that_of_its_first_token():
    model = tagger()
    model.head.output_projection.kernel.assign(
        np.random.default_rng(0).normal(size=(33, 5))
    )
    words = ["the", "cab", "tired", "ab"]
    logits = np.array(model(model.tokenizer(["the cab tired ab"])))[0]
    expected = [LABELS[i] for i in logits[[1, 2, 5, 6]].argmax(axis=-1)]
    assert model.tag_words([words, ["a"]], batch_size=1)[0] == expected


CONTEXT = "the animal is tired, the street is not. " * 5 + "so a cab!"


def answerer():
    return ka.QuestionAnswerer(
        small_bert(num_layers=1), tokenizer(max_length=31), overlap=7
    )


def test_windows_hold_the_answer_or_point_at_the_first_token():
    model, start = answerer(), CONTEXT.index("a cab")
    batches = model.batches(["b?"], [CONTEXT], [{"text": "a cab", "start": start}])
    spans = []
    for row, (first, last) in zip(batches.rows, batches.targets, strict=True):
        tokens = [VOCABULARY[i] for i in row["token_ids"]]
        assert len(tokens) <= 31
        assert tokens[:4] == ["[CLS]", "b", "?", "[SEP]"]
        assert row["segment_ids"].tolist() == [0] * 4 + [1] * (len(tokens) - 4)
        spans.append(tokens[first : last + 1])
    assert spans[-1] == ["a", "c", "##a", "##b"]
    assert spans[0] == ["[CLS]"]


def test_the_best_span_of_all_windows_is_the_answer(monkeypatch):
    model = answerer()

    def predict(inputs):
        ids = inputs["token_ids"]
        logits = np.zeros((len(ids), 2, ids.shape[1]), "float32")
        cab = np.isin(ids, [VOCABULARY.index("c")])
        logits[:, 0][cab], logits[:, 1][cab] = 9.0, 9.0
        logits[:, :, 0] = 3.0
        return logits

    monkeypatch.setattr(model, "predict_on_batch", predict)
    start = CONTEXT.index("cab")
    asked, contexts = ["b?", "a?"], ["tired", CONTEXT]
    plain, found = model.answer(asked, contexts)
    assert (found["text"], found["start"], found["end"]) == ("cab", start, start + 3)
    assert plain["text"] == "tired"
    tokens = len(words_of_texts(model.tokenizer, [CONTEXT])[0].token_ids)
    seen = sum(
        len(row["token_ids"]) - 5 for row in model._windows(["a?"], [CONTEXT])[0]
    )
    assert seen > tokens
    share = np.exp(9) / (np.exp(9) + seen - 1)
    assert found["score"] == pytest.approx(share**2, rel=1e-4)
    nothing, found = model.answer(asked, contexts, no_answer_threshold=0.0)
    assert nothing == {"text": "", "start": None, "end": None, "score": 0.0}
    assert found["text"] == "cab"
    assert model.answer(["a?"], [""])[0]["text"] == ""


def test_an_answer_that_is_not_in_its_context_is_refused():
    with pytest.raises(ValueError, match="Received: 'cab' at 0"):
        answerer().batches(["a"], [CONTEXT], [{"text": "cab", "start": 0}])
    with pytest.raises(ValueError, match=r"no room for the text.*Received"):
        answerer().batches(["a " * 40], [CONTEXT], [None])


def hidden(continues, rate=0.15, size=40_000):
    random = np.random.default_rng(1)
    ids = random.integers(5, 1000, (1, size))
    may_hide = np.ones(ids.shape, bool)
    may_hide[:, : size // 4] = False
    out, targets = hide_tokens(
        ids,
        may_hide=may_hide,
        continues=continues(ids),
        mask_id=4,
        rate=rate,
        num_tokens=1000,
        random=random,
    )
    return ids, out, targets, may_hide


def test_80_percent_of_hidden_tokens_are_masked_and_10_percent_are_random():
    ids, out, targets, may_hide = hidden(lambda ids: np.zeros(ids.shape, bool))
    chosen = targets != IGNORED
    assert not chosen[~may_hide].any()
    assert chosen[may_hide].mean() == pytest.approx(0.15, abs=0.01)
    assert (targets[chosen] == ids[chosen]).all()
    assert (out[~chosen] == ids[~chosen]).all()
    assert (out[chosen] == 4).mean() == pytest.approx(0.8, abs=0.02)
    assert (out[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.02)


def test_whole_words_are_hidden_together():
    _, _, targets, _ = hidden(lambda ids: np.arange(ids.size)[None] % 2 == 1)
    chosen = (targets != IGNORED)[0]
    assert (chosen[::2] == chosen[1::2]).all()
    assert chosen.any()


def masked_lm():
    return ka.MaskedLM(small_bert(num_layers=1), tokenizer())


def test_masked_batches_hide_other_tokens_each_epoch_and_no_special_ones():
    model = masked_lm()
    batches = model.batches(["the animal the street tired"] * 7, mask_rate=0.5)
    inputs, targets = batches[0]
    same = batches[0][0]["token_ids"]
    np.testing.assert_array_equal(same, inputs["token_ids"])
    batches.on_epoch_end()
    assert not np.array_equal(batches[0][0]["token_ids"], same)
    batches.epoch = 0
    np.testing.assert_array_equal(batches[0][0]["token_ids"], same)
    assert (targets[:, [0, -1]] == IGNORED).all()
    assert (targets != IGNORED).any()


def test_fill_names_the_likeliest_tokens_of_each_mask():
    model = masked_lm()
    bias = np.zeros(len(VOCABULARY))
    bias[VOCABULARY.index("street")], bias[VOCABULARY.index("tired")] = 50.0, 49.0
    model.head.bias.assign(bias)
    one, none, two = model.fill(["the [MASK]", "the", "[MASK] a [MASK]"], top=2)
    assert [len(found) for found in (one, none, two)] == [1, 0, 2]
    assert [found["token"] for found in one[0]] == ["street", "tired"]
    assert one[0][0]["score"] == pytest.approx(1 / (1 + np.exp(-1)), abs=0.1)


def test_masked_logits_are_products_with_the_table_of_the_tokens():
    model = masked_lm()
    ids = np.array([[2, 57, 58]])
    x = np.array(model.backbone(ids)["sequence_output"])
    head = model.head
    x = np.array(head.normalization(head.transform(x)))
    table = np.array(model.backbone.token_embedding.embeddings)
    np.testing.assert_allclose(model(ids), x @ table.T, atol=1e-5)
    assert sum("embeddings" in w.path for w in model.trainable_weights) == 3


def test_next_sentence_returns_the_probability_of_following():
    model = ka.NextSentence(small_bert(num_layers=1), tokenizer())
    model.head.output_projection.kernel.assign(
        np.random.default_rng(0).normal(size=(33, 2))
    )
    firsts, seconds = ["the animal", "a", "b c"], ["tired", "the street!", "a"]
    logits = np.array(model(model.tokenizer(firsts, seconds))).astype("float64")
    expected = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    np.testing.assert_allclose(model.follows(firsts, seconds), expected, atol=1e-5)
    _, targets = model.batches(["a"], ["b"], [True])[0]
    assert targets.tolist() == [0]
