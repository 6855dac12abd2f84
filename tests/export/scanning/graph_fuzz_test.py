"""No graph in order touches a file, keeps an input or never ends."""

import os
import random
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import tensorflow as tf
from export.scanning.graph_bases import save_bases
from export.scanning.graph_mutations import Mutator, what_runs
from export.scanning.graph_runs import TracedWorker, compile_tracer, needs_compiler
from tensorflow.core.protobuf import saved_model_pb2

from keras_attention.export.scanning.saved_model import inspect_saved_model

pytestmark = [pytest.mark.tensorflow, needs_compiler]
FILE = "saved_model.pb"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return save_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def worker(tmp_path_factory, bases):
    folder = tmp_path_factory.mktemp("worker")
    started = TracedWorker(compile_tracer(folder), folder, bases["scale"])
    yield started
    started.close()


def read(folder):
    return saved_model_pb2.SavedModel.FromString((folder / FILE).read_bytes())


def with_graph(base, saved, folder):
    """Returns a folder with the weights of the base and another graph."""

    def others(path, names):
        return [FILE] if FILE in names else []

    shutil.copytree(base, folder, copy_function=os.link, ignore=others)
    (folder / FILE).write_bytes(saved.SerializeToString())
    return folder


def complaints(found):
    """Returns what a run did that no artifact in order may do."""
    bad = [f"touched {found['touched']}"] if found["touched"] else []
    bad += found.get("kept", ())
    bad += ["hung"] if found["ended"] == "hung" else []
    return bad


@pytest.mark.parametrize("base", ["scale", "loop", "words", "draws", "keeps"])
def test_the_bases_are_in_order_and_run_without_a_trace(base, bases, worker):
    assert inspect_saved_model(bases[base] / FILE)[1] == []
    found = worker.run(bases[base])
    assert found["ran"] == len(read(bases[base]).meta_graphs[0].signature_def) - 1
    assert not complaints(found)


class Hostile(tf.Module):
    """Does what the check must see, in one of several ways."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.kept = tf.Variable([b""], shape=[None], dtype=tf.string, trainable=False)

    def write(self, texts):
        with tf.control_dependencies([tf.io.write_file(self.path, "x")]):
            return {"y": tf.identity(texts)}

    def read(self, texts):
        return {"y": tf.strings.join([texts, tf.io.read_file("/etc/hostname")])}

    def keep(self, texts):
        before = tf.identity(self.kept.read_value())
        with tf.control_dependencies([before]):
            self.kept.assign(texts)
        return {"y": before}

    def count(self, texts):
        total = tf.raw_ops.Empty(shape=[977], dtype=tf.int64)
        return {"y": texts, "total": total}


@pytest.mark.parametrize(
    ("way", "seen"),
    [
        ("write", "touched"),
        ("read", "touched.*hostname"),
        ("keep", "client A: my secret"),
        ("count", "depends on the call before"),
    ],
)
def test_the_check_sees_what_a_hostile_graph_does(way, seen, worker, tmp_path):
    module = Hostile(str(tmp_path / "written"))
    texts = tf.TensorSpec([None], tf.string, name="texts")
    function = tf.function(getattr(module, way), input_signature=[texts])
    tf.saved_model.save(module, str(tmp_path / way), signatures={"s": function})
    assert inspect_saved_model(tmp_path / way / FILE)[1]
    bad = complaints(worker.run(tmp_path / way))
    assert len(bad) == 1
    assert re.search(seen, bad[0])


NUMBERS = [range(300)]
NUMBERS += [
    pytest.param(range(first, first + 7000), marks=pytest.mark.fuzz)
    for first in (300, 7300, 14_300)
]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_no_changed_graph_in_order_does_more_than_compute(
    numbers, bases, worker, tmp_path, record_property
):
    canary = tmp_path / "canary"
    canary.write_text("canary")
    paths = [str(canary), "../canary", "/etc/hostname"]
    originals = {name: read(folder) for name, folder in bases.items()}
    tried = {what_runs(saved) for saved in originals.values()}
    in_order, endings, bad = 0, Counter(), []

    def run(folder, changes):
        found = worker.run(folder)
        endings[ending(found)] += 1
        wrong = complaints(found)
        if wrong:
            bad.append((folder.name, changes, wrong))
        else:
            shutil.rmtree(folder)

    with ThreadPoolExecutor(1) as pool:  # the next graphs are made while one runs
        runs = []
        for number in numbers:
            chance = random.Random(number)  # so that one graph can be made again
            base = chance.choice(sorted(originals))
            saved = type(originals[base])()
            saved.CopyFrom(originals[base])
            changes = Mutator(chance, paths).mutate(saved)
            (tmp_path / FILE).write_bytes(saved.SerializeToString())
            if inspect_saved_model(tmp_path / FILE)[1]:
                continue
            in_order += 1
            graph = what_runs(saved)
            if graph not in tried:
                tried.add(graph)
                folder = tmp_path / f"{base}-{number}"
                with_graph(bases[base], saved, folder)
                runs.append(pool.submit(run, folder, changes))
                runs[max(0, len(runs) - 16)].result()
        for one in runs:
            one.result()
    record_property(
        "summary",
        f"{len(numbers):,} changed graphs: {in_order:,} in order, {endings.total():,} "
        f"of them different and loaded ({dict(endings)}), {len(bad)} did more",
    )
    assert not bad
    assert canary.read_text() == "canary"
    assert endings["ran"] > len(numbers) / 20


def ending(found):
    """Returns how a run ended, in one word."""
    if found["ended"]:
        return found["ended"]
    if found["error"]:
        return "refused by TensorFlow"
    if found["timed_out"]:
        return "stopped in time"
    return "ran" if found["ran"] else "loaded, refused the inputs"
