import numpy as np
import pytest
import tensorflow as tf

from keras_attention.ops.lookup import lookup

TABLE = np.arange(15, dtype="float32").reshape(5, 3)
GRAPH = tf.function(
    lambda ids: lookup(tf.constant(TABLE), ids),
    input_signature=[tf.TensorSpec((None,), tf.int32)],
)


@pytest.mark.tensorflow
def test_correct_ids_return_their_rows():
    ids = np.array([4, 0, 2])
    assert np.array_equal(lookup(TABLE, ids), TABLE[ids])
    assert np.array_equal(GRAPH(ids.astype("int32")), TABLE[ids])
    assert lookup(TABLE, np.zeros((2, 0), int)).shape == (2, 0, 3)


@pytest.mark.parametrize("wrong", [-1, -5, 5, 2**31 - 1])
def test_a_wrong_id_is_named(wrong):
    message = rf"`ids` must be from 0 to 4: .*Received: ids with 1 .* first {wrong}"
    with pytest.raises(ValueError, match=message):
        lookup(TABLE, np.array([0, wrong]), what="ids")


@pytest.mark.tensorflow
@pytest.mark.parametrize("wrong", [-1, -5, 5, 2**31 - 1])
def test_a_wrong_id_is_refused_by_the_runtime_in_a_graph(wrong):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 5\)"):
        GRAPH(np.array([0, wrong], "int32"))


@pytest.mark.tensorflow
@pytest.mark.parametrize("wrong", [-1, -5, 5, 2**31 - 1])
def test_xla_returns_nan_and_never_a_wrong_row_for_a_wrong_id(wrong):
    compiled = tf.function(
        lambda ids: lookup(tf.constant(TABLE), ids), jit_compile=True
    )
    rows = compiled(tf.constant([3, wrong]))
    assert np.array_equal(rows[0], TABLE[3])
    assert np.isnan(rows[1]).all()


def test_ids_are_integers():
    with pytest.raises(ValueError, match=r"must be integers. Received: "):
        lookup(TABLE, np.array([1.0]))
