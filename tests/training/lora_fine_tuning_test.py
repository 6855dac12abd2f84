"""`fine_tune` trains the adapters and the head, and nothing else."""

import keras
import numpy as np

import keras_attention as ka

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]


def test_the_base_is_bit_equal_after_fine_tuning():
    keras.utils.set_random_seed(0)
    backbone = ka.BertEncoder(
        vocabulary_size=len(TOKENS),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
    )
    model = ka.TextClassifier(backbone, ["x", "y"], ka.WordPieceTokenizer(TOKENS))
    before = {weight.path: np.array(weight) for weight in backbone.weights}
    ka.enable_lora(model, rank=2)
    batches = model.batches(["a b", "c", "b", "c c"] * 2, ["x", "y"] * 4, batch_size=4)
    losses = ka.fine_tune(
        model, batches, epochs=10, learning_rate=1e-2, verbose=False
    ).history["loss"]

    assert losses[-1] < losses[0]
    after = {weight.path: np.array(weight) for weight in backbone.weights}
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value, err_msg=path)
    trained = {weight.path.split("/")[-1] for weight in model.trainable_variables}
    assert len(after) > len(before)
    assert not trained & {"embeddings", "gamma", "beta"}
