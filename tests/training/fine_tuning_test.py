"""`ka.fine_tune` trains every task, with the settings and the data of the user."""

import keras
import numpy as np
import pytest
from samples import VOCABULARY, eagerly, small_bert
from small_models import small_tasks

import keras_attention as ka
from keras_attention.training.settings import steps_of

pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow

TEXTS = ["the animal", "tired!", "the street, the animal", "a", "b c d", "tired e"]
PAIRS = TEXTS[::-1]
WORDS = [text.split() for text in TEXTS]
ANSWERS = [{"text": text.split()[0], "start": 0} for text in TEXTS]
IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
LABELS = ["O", "B-one", "I-one"] * 2
EXAMPLES = {
    "ImageClassifier": (IMAGES, LABELS),
    "MaskedLM": (TEXTS,),
    "NextSentence": (TEXTS, PAIRS, [True, False] * 3),
    "QuestionAnswerer": (PAIRS, TEXTS, ANSWERS),
    "TextClassifier": (TEXTS, LABELS),
    "TextScorer": (TEXTS, np.arange(6.0)),
    "TokenClassifier": (WORDS, [["B-one"] * len(words) for words in WORDS]),
    "CausalLM": ([[1, 2, 3, 4], [3, 4, 5], [6, 7]] * 2,),
    "SentenceEncoder": (TEXTS, PAIRS),
    "SentenceEncoder with scores": (TEXTS, PAIRS, np.linspace(-1, 1, 6)),
    "Seq2SeqLM": ([[1, 2, 3], [4, 5]] * 3, [[3, 2, 1], [5, 4]] * 3),
}
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}


def tokenizer():
    return ka.WordPieceTokenizer(VOCABULARY, max_length=61)


def task(name):
    if name == "CausalLM":
        return ka.CausalLM(ka.GPTDecoder(11, **SIZES))
    if name == "Seq2SeqLM":
        backbone = ka.RecurrentSeq2Seq(11, embedding_dim=4, hidden_dim=8)
        return ka.Seq2SeqLM(backbone, start_token_id=9)
    if name.startswith("SentenceEncoder"):
        return ka.SentenceEncoder(small_bert(num_layers=1), tokenizer())
    return small_tasks()[name]()


def classifier(**settings):
    keras.utils.set_random_seed(3)
    bert = small_bert(num_layers=1, dropout=0.0)
    labels = ["O", "B-one", "I-one"]
    return ka.TextClassifier(bert, labels, tokenizer(), dropout=0.0, **settings)


@pytest.fixture(autouse=True)
def eager():
    with eagerly():
        yield


def weights_of(model):
    return [np.array(weight) for weight in model.weights]


CHEAP = {"TextClassifier", "SentenceEncoder"}
EACH_TASK = [
    pytest.param(name, marks=() if name in CHEAP else pytest.mark.slow)
    for name in EXAMPLES
]


@pytest.mark.parametrize("name", EACH_TASK)
def test_every_task_trains_in_one_call(name):
    keras.utils.set_random_seed(1)
    model = task(name)
    before = weights_of(model)
    batches = model.batches(*EXAMPLES[name], batch_size=4)
    settings = {"epochs": 2, "learning_rate": 1e-2, "verbose": False}
    history = ka.fine_tune(model, batches, validation=batches, **settings).history
    found = model.evaluate(batches, verbose=0, return_dict=True)
    assert np.isfinite(list(found.values())).all()
    assert {"loss", *(f"val_{key}" for key in found)} <= set(history)
    assert batches.epoch == 3  # two of the training, one of `evaluate`
    changed = [
        not np.array_equal(a, b) for a, b in zip(before, weights_of(model), strict=True)
    ]
    assert sum(changed) > len(changed) // 2


def test_longer_padding_changes_no_weight():
    def trained(multiple):
        keras.utils.set_random_seed(4)
        bert = small_bert(num_layers=1, dropout=0.0)
        model = ka.TokenClassifier(bert, ["O", "B-one"], tokenizer(), dropout=0.0)
        rows = [words for words in WORDS for _ in range(2)]
        tags = [["B-one"] + ["O"] * (len(words) - 1) for words in rows]
        batches = model.batches(rows, tags, batch_size=2, pad_to_multiple_of=multiple)
        model.compile(keras.optimizers.SGD(0.1), **model.compile_arguments())
        widths = []
        for start in (0, 4, 8):  # the order of batches depends on their lengths
            inputs, targets = batches.batch_of([start, start + 3])
            widths.append(targets.shape[1])
            model.train_on_batch(inputs, targets)
        return widths, weights_of(model)

    (short, exact), (long, padded) = trained(1), trained(16)
    assert max(short) < 16 == min(long) == max(long)
    for one, other in zip(exact, padded, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_the_batches_of_a_training_come_in_the_order_of_their_seed():
    model = classifier()

    def order(seed):
        seen = []
        batches = model.batches(TEXTS * 3, LABELS * 3, batch_size=2, seed=seed)
        one = batches.batch_of
        batches.batch_of = lambda rows: (seen.append(tuple(rows)), one(rows))[1]
        ka.fine_tune(model, batches, epochs=1, verbose=False)
        assert len(seen[-9:]) == len(set(seen[-9:]))
        return seen[-9:]

    assert order(1) == order(1) != order(2)


def test_what_is_frozen_stays_frozen_unless_the_caller_says_otherwise():
    model = classifier()
    model.backbone.token_embedding.trainable = False
    table = np.array(model.backbone.token_embedding.embeddings)
    kernel = model.backbone.blocks[0].feed_forward.intermediate.kernel
    batches = model.batches(TEXTS, LABELS)
    settings = {"epochs": 1, "warmup": 0.0, "learning_rate": 1e-2, "verbose": False}
    before = np.array(kernel)
    ka.fine_tune(model, batches, **settings)
    np.testing.assert_array_equal(model.backbone.token_embedding.embeddings, table)
    assert not np.array_equal(kernel, before)
    before = np.array(kernel)
    ka.fine_tune(model, batches, freeze_backbone=True, **settings)
    ka.fine_tune(model, batches, **settings)
    np.testing.assert_array_equal(kernel, before)
    ka.fine_tune(model, batches, freeze_backbone=False, **settings)
    assert not np.array_equal(kernel, before)
    assert not np.array_equal(model.backbone.token_embedding.embeddings, table)
    model.trainable = False
    with pytest.raises(ValueError, match=r"Every layer.*frozen.*Received: TextClass"):
        ka.fine_tune(model, batches, **settings)


@pytest.mark.slow
def test_datasets_and_generators_of_the_user_are_trained_on():
    import tensorflow as tf

    model = classifier()
    dataset = tf.data.Dataset.from_tensor_slices((TEXTS, [0, 1, 2] * 2)).batch(2)
    dataset = dataset.map(lambda text, label: (model.tokenizer(text), label))
    settings = {"epochs": 1, "verbose": False}
    ka.fine_tune(model, dataset, **settings)
    assert int(model.optimizer.iterations) == 3

    class OfUser(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return model.tokenizer(TEXTS[index : index + 2]), np.array([0, 1])

    ka.fine_tune(model, OfUser(), **settings)
    assert int(model.optimizer.iterations) == 2

    def generator():
        while True:
            yield OfUser()[0]

    ka.fine_tune(model, generator(), steps_per_epoch=5, **settings)
    assert int(model.optimizer.iterations) == 5
    for unknown in (generator(), dataset.repeat(), dataset.filter(lambda *_: True)):
        with pytest.raises(ValueError, match=r"steps_per_epoch.*Received: \w+ with"):
            ka.fine_tune(model, unknown, **settings)
    assert steps_of([1, 2, 3], None) == 3


def test_accumulated_batches_are_one_large_batch():
    def trained(batch_size, accumulated):
        keras.utils.set_random_seed(2)
        model = small_tasks()["ImageClassifier"]()
        batches = model.batches(IMAGES, LABELS, batch_size=batch_size, shuffle=False)
        ka.fine_tune(
            model,
            batches,
            epochs=3,
            learning_rate=1e-2,
            epsilon=1.0,  # so that a rounding error of a gradient near 0 stays small
            weight_decay=0.0,
            gradient_accumulation_steps=accumulated,
            verbose=False,
        )
        assert int(model.optimizer.iterations) == 3
        return weights_of(model)

    for one, other in zip(trained(6, None), trained(2, 3), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.slow
def test_the_average_of_the_weights_is_what_remains():
    def trained(ema, callbacks=()):
        model = classifier()
        ka.fine_tune(
            model,
            model.batches(TEXTS, LABELS, batch_size=2),
            epochs=2,
            learning_rate=1e-2,
            ema=ema,
            callbacks=callbacks,
            verbose=False,
        )
        return np.array(model.head.output_projection.kernel)

    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(np.array(self.model.head.output_projection.kernel))

    plain = trained(None, [Watch()])
    np.testing.assert_array_equal(plain, seen[-1])
    average = seen[0]
    for weights in seen[1:]:
        average = 0.7 * average + 0.3 * weights
    np.testing.assert_allclose(trained(0.7), average, atol=1e-6)
    assert np.abs(plain - average).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_a_training_in_half_precision_leaves_the_model_as_it_was(dtype):
    model = classifier()
    batches = model.batches(TEXTS, LABELS, batch_size=2)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(model(model.tokenizer(["a"])).dtype)

    settings = {"epochs": 2, "verbose": False, "learning_rate": 1e-3}
    history = ka.fine_tune(
        model, batches, validation=batches, dtype=dtype, callbacks=[Watch()], **settings
    ).history
    assert {str(x).split("'")[1] for x in seen} == {dtype.removeprefix("mixed_")}
    exact = ka.fine_tune(other := classifier(), batches, **settings).history
    np.testing.assert_allclose(history["loss"], exact["loss"], rtol=3e-2)
    logits = model(model.tokenizer(["a"]))
    assert logits.dtype == "float32"
    assert model.dtype_policy.name == model.backbone.dtype_policy.name == "float32"
    np.testing.assert_allclose(logits, other(model.tokenizer(["a"])), atol=0.05)
    scales = []

    class Scale(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            scales.append(hasattr(self.model.optimizer, "dynamic_scale"))

    head = {"freeze_backbone": True, "dtype": dtype, "callbacks": [Scale()]}
    ka.fine_tune(model, batches, **head, **settings)
    assert {*scales} == {dtype == "mixed_float16"}
    with pytest.raises(ValueError, match=r"keep their dtype.*Received: dtype='bfloat"):
        ka.fine_tune(model, batches, dtype="bfloat16")


def test_labels_are_smoothed_and_classes_weighted():
    model = classifier()
    batches = model.batches(TEXTS, LABELS, batch_size=6, shuffle=False)
    inputs, targets = batches[0]
    logits = np.array(model(inputs), "float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = -log_p[np.arange(6), targets]
    losses = 0.9 * right - 0.1 * log_p.mean(-1)
    expected = (losses * np.where(targets == 1, 3.0, 1.0)).mean()
    found = ka.fine_tune(
        model,
        batches,
        epochs=1,
        label_smoothing=0.1,
        class_weight={"B-one": 3.0},
        verbose=False,
    ).history
    assert found["loss"][0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"must name labels.*Received: \['two'\]"):
        ka.fine_tune(model, batches, class_weight={"two": 1.0})
    scorer = task("TextScorer")
    with pytest.raises(ValueError, match=r"one label per text.*label_smoothing=0.1"):
        ka.fine_tune(scorer, batches, label_smoothing=0.1)
    several = classifier(multi_label=True)
    batches = several.batches(TEXTS, [["O"]] * 6)
    ka.fine_tune(several, batches, epochs=1, label_smoothing=0.1, verbose=False)
    with pytest.raises(ValueError, match="class_weight"):
        ka.fine_tune(several, batches, class_weight={"O": 2.0})


@pytest.mark.slow
def test_training_stops_early_with_the_best_weights():
    model = classifier()
    batches = model.batches(TEXTS, LABELS, batch_size=6)
    wrong = model.batches(TEXTS, LABELS[1:] + LABELS[:1], batch_size=6)
    best = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            best.append((logs["val_loss"], weights_of(model)))

    history = ka.fine_tune(
        model,
        batches,
        epochs=40,
        learning_rate=3e-2,
        validation=wrong,
        early_stopping=2,
        callbacks=[Keep()],
        verbose=False,
    ).history
    losses = history["val_loss"]
    assert len(losses) == int(np.argmin(losses)) + 3 < 40
    for found, expected in zip(
        weights_of(model), min(best, key=lambda x: x[0])[1], strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"validation=.*early_stopping=2"):
        ka.fine_tune(model, batches, early_stopping=2)
    watched = {"early_stopping": 2, "monitor": "val_f1", "verbose": False}
    with pytest.raises(ValueError, match=r"val_accuracy.*Received: monitor='val_f1'"):
        ka.fine_tune(model, batches, validation=wrong, **watched)


def test_a_loss_that_is_not_finite_ends_the_training_before_anything_is_saved(tmp_path):
    model = classifier()
    batches = model.batches(TEXTS, LABELS, batch_size=2)
    model.head.output_projection.kernel.assign_add(
        np.full(model.head.output_projection.kernel.shape, np.nan)
    )
    path = tmp_path / "last.keras"
    save = keras.callbacks.ModelCheckpoint(str(path), save_freq=1)
    with pytest.raises(ValueError, match=r"not finite.*Received: loss=nan after batch"):
        ka.fine_tune(model, batches, callbacks=[save], verbose=False)
    assert not path.exists()
