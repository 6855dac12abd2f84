"""What is frozen is frozen again after a model was saved and loaded."""

import numpy as np
import pytest
from samples import small_bert

import keras_attention as ka

SIZES = (13, 2, 2, 8, 16)
MODELS = {
    "bert": lambda: ka.BertEncoder(*SIZES),
    "gpt": lambda: ka.GPTDecoder(*SIZES),
    "seq2seq": lambda: ka.Seq2SeqTransformer(*SIZES),
    "t5": lambda: ka.T5EncoderDecoder(*SIZES, head_dim=4),
    "t5 encoder": lambda: ka.T5Encoder(*SIZES, head_dim=4),
    "vit": lambda: ka.VisionTransformer(
        image_size=6,
        patch_size=3,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
    ),
    "recurrent": lambda: ka.RecurrentSeq2Seq(13, embedding_dim=4, hidden_dim=8),
    "reader": lambda: ka.Seq2SeqFeatures(ka.Seq2SeqTransformer(*SIZES), 1),
    "classifier": lambda: ka.TextClassifier(ka.BertEncoder(*SIZES), ["a", "b"]),
    "sentence": lambda: ka.SentenceEncoder(
        ka.BertEncoder(*SIZES), dense=[{"units": 3}]
    ),
    "causal": lambda: ka.CausalLM(ka.GPTDecoder(*SIZES)),
    "pair": lambda: ka.Seq2SeqLM(ka.Seq2SeqTransformer(*SIZES), start_token_id=1),
}


def flags(model):
    return [
        (layer.trainable, [variable.trainable for variable in layer.variables])
        for layer in model._flatten_layers()
        if layer.variables
    ]


def parts(model):
    """Returns layers at several depths, each with variables."""
    layers = [layer for layer in model._flatten_layers() if layer.variables]
    return [layers[number] for number in (1, len(layers) // 2, -1)]


@pytest.mark.parametrize("kind", MODELS)
def test_frozen_layers_stay_frozen(kind):
    model = MODELS[kind]()
    before = flags(model)
    assert flags(type(model).from_config(model.get_config())) == before
    for layer in parts(model):
        layer.trainable = False
    assert flags(model) != before
    again = type(model).from_config(model.get_config())
    assert flags(again) == flags(model)
    model.trainable = False
    again = type(model).from_config(model.get_config())
    assert flags(again) == flags(model)
    assert not again.trainable_variables


def test_a_frozen_backbone_is_frozen_in_a_file(tmp_path):
    model = ka.TextClassifier(small_bert(num_layers=1), ["a", "b"])
    model.backbone.trainable = False
    model.save(tmp_path / "model.keras")
    again = ka.load_model(tmp_path / "model.keras")
    assert len(again.trainable_variables) == len(model.trainable_variables) == 2
    ids, before = np.array([[1, 2, 3]]), again.backbone.get_weights()
    again.compile("sgd", **again.compile_arguments())
    again.fit(ids, np.array([1]), verbose=0)
    for old, new in zip(before, again.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    again.backbone.trainable = True
    assert len(again.trainable_variables) > 20
