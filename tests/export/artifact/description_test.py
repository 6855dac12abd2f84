"""One description of inputs and outputs is the manifest's JSON and checks arrays."""

import json

import numpy as np
import pytest

from keras_attention.export.artifact.description import (
    ANY_SHAPE,
    SignatureInfo,
    TensorInfo,
)
from keras_attention.export.runtimes.base import Runner
from keras_attention.export.runtimes.opening import open_artifact

IDS = TensorInfo("int32", ("batch", "sequence"))
TEXTS = TensorInfo("string", ("batch",))
INFO = SignatureInfo(
    {"ids": IDS, "mask": TensorInfo("bool", ("batch", "sequence")), "text": TEXTS},
    {"vectors": TensorInfo("float32", ("batch", 3))},
    limits={"ids": 7},
    max_lengths={"sequence": 4},
)
GOOD = {
    "ids": np.array([[1, 6], [0, 2]], "int32"),
    "mask": np.ones((2, 2), bool),
    "text": np.array(["a", "b"], object),
}


def test_what_is_written_as_json_is_read_again():
    assert SignatureInfo.from_json(json.loads(json.dumps(INFO.to_json()))) == INFO


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "dtype and a shape"),
        ({"dtype": "int32"}, "dtype and a shape"),
        ({"dtype": "int32", "shape": [None]}, "names of axes"),
        ({"dtype": 3, "shape": []}, "names of axes"),
        ({"dtype": "int32", "shape": [1.0]}, "names of axes"),
    ],
)
def test_json_of_another_form_is_refused(data, message):
    with pytest.raises(ValueError, match=f"{message}.*Received: "):
        TensorInfo.from_json(data)
    entry = {**INFO.to_json(), "inputs": {"ids": data}}
    with pytest.raises(ValueError, match=message):
        SignatureInfo.from_json(entry)


@pytest.mark.parametrize("exact", [True, False])
def test_a_request_that_fits_passes_unchanged(exact):
    fitted = INFO.fit("s", GOOD, exact=exact)
    assert list(fitted) == list(GOOD)
    for name, array in GOOD.items():
        np.testing.assert_array_equal(fitted[name], array)
        assert fitted[name].dtype == array.dtype


LENIENT = {
    "a list": {"ids": [[1, 6], [0, 2]]},
    "another width": {"ids": GOOD["ids"].astype("int64")},
    "unsigned": {"ids": GOOD["ids"].astype("uint8")},
}


@pytest.mark.parametrize("changed", LENIENT.values(), ids=[*LENIENT])
def test_only_an_exact_check_refuses_another_dtype(changed):
    fitted = INFO.fit("s", {**GOOD, **changed})
    np.testing.assert_array_equal(fitted["ids"], GOOD["ids"])
    assert fitted["ids"].dtype == np.int32
    with pytest.raises(ValueError, match=r"'ids' .*Expected: int32 \[batch, sequence"):
        INFO.fit("s", {**GOOD, **changed}, exact=True)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A SavedModel with the rules in its graph, and no manifest next to it."""
    tf = pytest.importorskip("tensorflow")
    from keras_attention.export.formats.saved_model import write_saved_model
    from keras_attention.export.signatures.signature import Signature

    def function(ids, mask, text):
        return {"vectors": tf.zeros((tf.shape(ids)[0], 3))}

    signature = Signature("s", function, **vars(INFO))
    assert signature.info == INFO
    folder = tmp_path_factory.mktemp("saved") / "1"
    write_saved_model([signature], folder, variables=[])
    with open_artifact(folder, allow_unverified=True) as runner:
        yield runner


LONG = {"ids": np.ones((2, 5), "int32"), "mask": np.ones((2, 5), bool)}
BROKEN = {
    "a high id": (
        {"ids": np.array([[1, 7], [0, 2]], "int32")},
        "ids must be in [0, 7): ids of the vocabulary of this model. "
        "Received: ids from 0 to 7",
    ),
    "a negative id": (
        {"ids": np.array([[1, -1], [0, 2]], "int32")},
        "ids must be in [0, 7): ids of the vocabulary of this model. "
        "Received: ids from -1 to 2",
    ),
    "too long": (
        LONG,
        "The sequence length of ids is over the 4 positions of this model: shorten "
        "the input to at most 4. Received: 5",
    ),
    "two sizes": (
        {"mask": np.ones((2, 3), bool)},
        "ids and mask must have the same sequence size. Received: 2 and 3",
    ),
    "two batches": (
        {"text": np.array(["a"], object)},
        "ids and text must have the same batch size. Received: 2 and 1",
    ),
}


@pytest.mark.parametrize(("changed", "message"), BROKEN.values(), ids=[*BROKEN])
def test_a_broken_rule_has_one_error_in_arrays_and_in_graphs(session, changed, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        INFO.fit("s", {**GOOD, **changed}, exact=True)
    assert str(caught.value) == message
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        session.run("s", **{**GOOD, **changed})
    assert str(caught.value) == message


def test_empty_ids_break_no_rule():
    empty = {"ids": np.zeros((0, 2), "int32"), "mask": np.zeros((0, 2), bool)}
    assert INFO.fit("s", {**empty, "text": []})["ids"].shape == (0, 2)


def test_an_axis_without_a_name_may_have_any_size():
    unnamed = TensorInfo("float32", (None, 2))
    info = SignatureInfo({"a": unnamed, "b": unnamed}, {})
    fitted = info.fit("s", {"a": np.ones((3, 2)), "b": np.ones((5, 2))})
    assert fitted["b"].shape == (5, 2)
    assert str(unnamed) == "float32 [?, 2]"
    with pytest.raises(ValueError, match=r"'a' .*Received: shape \(3, 3\)"):
        info.fit("s", {"a": np.ones((3, 3)), "b": np.ones((5, 2))})


def test_a_tensor_of_any_shape_takes_every_rank():
    info = TensorInfo("float32", ANY_SHAPE)
    assert info.fit("x", 3.0).shape == ()
    assert info.fit("x", np.ones((2, 1, 3), "float32")).shape == (2, 1, 3)
    assert str(info) == "float32 of any shape"


class Echo(Runner):
    runtime = "echo"

    def __init__(self, **signatures):
        self.signatures = signatures

    def _run(self, signature_name, arrays):
        return arrays

    def close(self):
        pass


def test_a_runner_takes_names_and_limits_from_the_manifest():
    found = SignatureInfo(
        {"ids": TensorInfo("int32", (None, None))},
        {"ids": TensorInfo("int32", ANY_SHAPE)},
    )
    declared = SignatureInfo({"ids": IDS}, {"ids": IDS}, {"ids": 7}, {"sequence": 4})
    runner = Echo(s=found, other=found)
    runner.add_descriptions({"s": declared})
    assert runner.signatures == {"s": declared, "other": found}
    with pytest.raises(ValueError, match=r"ids must be in \[0, 7\)"):
        runner.run("s", ids=[[7]])
    assert runner.run("other", ids=[[7]])["ids"].tolist() == [[7]]


@pytest.mark.parametrize(
    "inputs",
    [
        {"ids": TensorInfo("int64", ("batch", "sequence"))},
        {"ids": TensorInfo("int32", ("batch",))},
        {"token_ids": IDS},
        {"ids": IDS, "mask": IDS},
    ],
    ids=["dtype", "rank", "name", "number"],
)
def test_a_manifest_about_other_tensors_does_not_describe_the_file(inputs):
    found = SignatureInfo({"ids": TensorInfo("int32", (None, None))}, {"y": IDS})
    runner = Echo(s=found)
    runner.add_descriptions({"s": SignatureInfo(inputs, {"y": IDS}, {"ids": 7})})
    assert runner.signatures["s"] is found
