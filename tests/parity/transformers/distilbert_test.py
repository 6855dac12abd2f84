"""DistilBERT has the numbers of transformers, and is saved for it."""

import functools

import pytest
from parity.transformers.compare import check_family, compare, random_model

import keras_attention as ka

pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = {
    "vocab_size": 97,
    "n_layers": 2,
    "n_heads": 3,
    "dim": 33,
    "hidden_dim": 47,
    "max_position_embeddings": 61,
    "attn_implementation": "eager",
}


@pytest.mark.parametrize(
    "options",
    [{}, {"activation": "relu", "n_layers": 1}, {"sinusoidal_pos_embds": True}],
    ids=str,
)
def test_distilbert_is_transformers_distilbert(options, tmp_path, record_property):
    reference = random_model("DistilBert", "Model", **{**SIZES, **options})
    outputs = {"sequence_output": "last_hidden_state"}
    compare_with = functools.partial(compare, outputs=outputs)
    worst, _ = check_family(reference, tmp_path, compare_with)
    record_property("summary", f"distilbert {options}: {worst:.1e} from transformers")


def test_an_encoder_that_no_distilbert_can_be_is_not_written(tmp_path):
    model = ka.BertEncoder(13, 1, 2, 6, 11, num_segments=0)
    with pytest.raises(ValueError, match=r"pooler=False.*Received: pooler=True"):
        ka.save_pretrained(model, tmp_path / "out")
