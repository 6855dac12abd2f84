"""A script that trains small models on one device, on two, or as one of two workers.

python tests/replicas.py KIND OUT NAME ...

KIND is `local` (one device, then two logical ones) or `worker` (TF_CONFIG says which).
The folder OUT gets a file per process. `NAME:5` trains on 5 rows, `NAME` on 7 too.

python tests/replicas.py checkpoints OUT LOST

trains as one of two workers, with a checkpoint every 2 steps in OUT. Worker 1 kills
itself after LOST steps of it.
"""

import hashlib
import itertools
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

TEXTS = ["the tired animal", "street", "a tired street !", "the", "animals", "b c"]
TEXTS = [*TEXTS, "the street is tired ."]
WORDS = [text.split() for text in TEXTS]
BITS = [index % 2 for index in range(len(TEXTS))]
IDS = [[index + 5, 3, 7, 8, 9, 2][: 2 + index % 4] for index in range(len(TEXTS))]

LOSS = {"pooled_output": "mse"}


def makers():
    """Functions that return a model and its batches, by the task's name."""
    import numpy as np
    from samples import VOCABULARY, small_bert
    from small_models import MODELS, SIZES, small_tasks

    import keras_attention as ka

    tokenizer = ka.WordPieceTokenizer(VOCABULARY, max_length=61)
    images = np.random.default_rng(0).normal(size=(7, 8, 8, 3)).astype("float32")
    answers = [{"text": text.split()[-1]} for text in TEXTS]
    for answer, text in zip(answers, TEXTS, strict=True):
        answer["start"] = text.rindex(answer["text"])
    data = {
        "ImageClassifier": (images, BITS),
        "MaskedLM": (TEXTS,),
        "NextSentence": (TEXTS, TEXTS[::-1], BITS),
        "QuestionAnswerer": (TEXTS, TEXTS, answers),
        "TextClassifier": (TEXTS, BITS),
        "TextScorer": (TEXTS, [bit / 2 for bit in BITS]),
        "TokenClassifier": (WORDS, [[len(word) % 3 for word in w] for w in WORDS]),
    }
    tasks = small_tasks()
    assert set(tasks) == set(data)
    tasks["CausalLM"] = lambda: ka.CausalLM(MODELS["gpt2"](), tokenizer)
    data["CausalLM"] = (IDS,)
    for name, kind in [
        ("Seq2SeqLM", ka.Seq2SeqTransformer),
        ("T5", ka.T5EncoderDecoder),
    ]:
        tasks[name] = lambda kind=kind: ka.Seq2SeqLM(
            kind(61, **SIZES), start_token_id=1, end_token_id=2
        )
        data[name] = (IDS, IDS[::-1])

    tasks["SentenceEncoder"] = lambda: ka.SentenceEncoder(
        small_bert(num_layers=1), tokenizer
    )
    data["SentenceEncoder"] = (TEXTS, TEXTS[::-1])
    tasks["BertEncoder"] = MODELS["bert"]
    data["BertEncoder"] = ()

    def of(name):
        def make():
            return tasks[name](), data[name]

        return make

    return {name: of(name) for name in tasks}


def train(make, num_rows):
    """Train a model on rows that batches of 4 do not divide; return what is compared.

    The weights come from one seed, so that they begin equal everywhere.
    """
    import keras
    import numpy as np

    import keras_attention as ka

    keras.utils.set_random_seed(1)
    model, data = make()
    for layer in model._flatten_layers():  # replicas draw other numbers than one device
        for name in {"rate", "dropout", "attention_dropout"} & set(vars(layer)):
            if isinstance(getattr(layer, name), float):
                setattr(layer, name, 0.0)
    settings = {"epochs": 2, "verbose": 0}
    if hasattr(model, "batches"):
        batches = model.batches(*[rows[:num_rows] for rows in data], batch_size=4)
        inputs, _ = model.batches(*data, batch_size=7, shuffle=False)[0]
        history = ka.fine_tune(
            model, batches, learning_rate=1e-3, validation=batches, **settings
        )
        logs = model.evaluate(batches, return_dict=True, verbose=0)
    else:  # a model without a task, on arrays
        ids = np.array([(row + [0] * 6)[:6] for row in IDS])
        inputs = {"token_ids": ids, "padding_mask": ids != 0}
        given = {name: value[:num_rows] for name, value in inputs.items()}
        target = {"pooled_output": np.ones((num_rows, 16))}
        model.compile(ka.AdamW(1e-3, global_clipnorm=0.1), loss=LOSS)
        settings = {"batch_size": 4, "shuffle": False, **settings}
        history = model.fit(given, target, **settings)
        logs = model.evaluate(given, target, batch_size=4, return_dict=True, verbose=0)
    outputs = model.predict(inputs, batch_size=3, verbose=0)
    on_batch = model.predict_on_batch(inputs)
    outputs, on_batch = (keras.tree.flatten(x)[0] for x in (outputs, on_batch))
    np.testing.assert_allclose(outputs, on_batch, rtol=0, atol=1e-6)
    return model, {
        "history": history.history,
        "evaluate": {name: float(value) for name, value in logs.items()},
        "predict": np.asarray(outputs, "float64").ravel()[:40].tolist(),
        "shape": list(outputs.shape),
        "weights": digest_of(model),
    }


def digest_of(model):
    """The checksum of all weights, the same for the same bits."""
    import keras

    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(keras.ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()


def train_with_checkpoints(out, lost):
    """Train with dropout; print the first step that is trained and the weights."""
    import signal

    import keras
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras_attention as ka

    class Lose(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += bool(logs)
            if self.steps == 1 and logs:
                done = self.model.optimizer.iterations.value.numpy()
                print("begins with", int(done) - 1)
            if self.steps == lost and strategy.cluster_resolver.task_id == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    with strategy.scope():
        keras.utils.set_random_seed(1)
        model, data = makers()["MaskedLM"]()
    batches = model.batches(*data, batch_size=4)
    checkpoint = ka.TrainingCheckpoint(out, every_steps=2)
    settings = {"epochs": 4, "learning_rate": 1e-3, "verbose": 0}
    ka.fine_tune(model, batches, resume=checkpoint, callbacks=[Lose()], **settings)
    print("weights", digest_of(model))


def main(kind, out, *names):
    """Run what the command line names and write the results."""
    import tensorflow as tf

    if kind == "checkpoints":
        return train_with_checkpoints(out, int(names[0]))
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * (1 + (kind == "local"))
    tf.config.set_logical_device_configuration(cpu, devices)
    if kind == "local":
        strategies = {
            "one": tf.distribute.OneDeviceStrategy("CPU:0"),
            "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
        }
    else:
        strategies = {"worker": tf.distribute.MultiWorkerMirroredStrategy()}
    place = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {"index": 0})
    found = {}
    for given, label in itertools.product(names, strategies):
        name, _, only = given.partition(":")
        for num_rows in [int(only)] if only else [5, 7]:
            with strategies[label].scope():
                model, values = train(makers()[name], num_rows)
            found[f"{name} {num_rows} {label}"] = values
            if label == "worker" and place["index"] == 0:
                model.save(Path(out, f"{name} {num_rows}.keras"))
            print(name, num_rows, label, flush=True)
    Path(out, f"{place['index']}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
