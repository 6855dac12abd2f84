"""Keras' own tests of its attention layers pass with our classes in their place.

They are read from the installed Keras, see `keras_adapter.py`. A test that cannot pass
is named here with the reason; it must fail, so that the list stays true.
"""

import keras
import pytest
from parity import keras_adapter

pytestmark = [
    pytest.mark.tensorflow,
    # Keras' test of LoRA names its inputs in another way than its model does.
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict"),
    pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer"),
]

CASES = keras_adapter.cases()

# Parts of the names of tests about what Keras documents as its own inner workings.
INNER = {
    "calculate_score": "methods that only Keras' Attention has",
    "skipped_for_subclass": "a subclass that overrides a private method",
    "compute_attention_combines": "a private method",
    "flash_attention_with_errors": "an option of Keras for JAX and torch",
    "basics_with_flash_attention": "an option of Keras for JAX and torch",
}
_WEIGHTS = "ours learns the projections of the paper, which Keras' has not"
_PADDING = "the weights of a padding query are 0 here; Keras clears its output only"
_GUESS = "a causal mask over other lengths: Keras guesses where the first query is"
DIFFERENT = {
    "additive_attention::test_attention_basics": _WEIGHTS,
    "attention::test_attention_basics": _WEIGHTS,
    "additive_attention::test_attention_with_mask": _PADDING,
    "attention::test_attention_with_mask": _PADDING,
    "attention::test_attention_with_dropout": (
        "the returned weights are those before dropout, as in multi-head attention"
    ),
    "grouped_query_attention::test_masking_causal": _GUESS,
    "multi_head_attention::test_masking_causal": _GUESS,
}
PUBLIC = [name for name in CASES if not any(part in name for part in INNER)]
QUICK = ("errors", "nd_inputs", "shape_mismatch", "invalid", "lora")


def parameter(name):
    quick = any(part in name for part in QUICK)
    return pytest.param(name, marks=[] if quick else pytest.mark.slow)


PASSING = [parameter(name) for name in PUBLIC if name not in DIFFERENT]


@pytest.mark.parametrize("name", PASSING)
def test_a_test_of_keras_passes(name):
    problem = keras_adapter.run(CASES[name])
    assert problem is None, problem


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
def test_a_test_of_keras_that_is_named_as_different_fails(name):
    assert keras_adapter.run(CASES[name]) is not None, DIFFERENT[name]


def test_almost_all_public_tests_of_keras_are_expected_to_pass(record_property):
    assert set(DIFFERENT) <= set(PUBLIC)
    passing = len(PUBLIC) - len(DIFFERENT)
    assert passing >= 95
    record_property(
        "summary",
        f"Keras {keras.__version__}: {passing} of its {len(PUBLIC)} public tests of "
        "attention layers pass with our classes",
    )


def test_an_answer_of_keras_is_not_taken_for_ours():
    # The adapter of the additive layers makes one of Keras, whose weights are copied.
    layer = keras_adapter.AdditiveAttention(use_scale=False)
    with pytest.raises(ValueError, match="Attention needs a query and a value"):
        layer(keras.ops.ones((1, 2, 3)))
