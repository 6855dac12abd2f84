"""The warm-up file has TF Serving's form, and the artifact runs every request in it."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from served import small_artifact

from keras_attention.export.formats.warmup import WARMUP_NAME, write_warmup
from keras_attention.export.runtimes.tensorflow_session import SessionRunner


@pytest.fixture
def artifact(tmp_path):
    small_artifact(tmp_path / "model" / "1")
    return tmp_path / "model" / "1"


@pytest.mark.tensorflow
def test_every_request_in_the_file_runs(artifact):
    pytest.importorskip("tensorflow_serving")
    from tensorflow_serving.apis import prediction_log_pb2

    told = write_warmup(artifact, "model")
    records = list(tf.data.TFRecordDataset(str(artifact / WARMUP_NAME)))
    assert told == f"Wrote {len(records)} warm-up requests for TF Serving"
    shapes = set()
    # The manifest of the fixture was written without the file.
    with SessionRunner(artifact) as runner:
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            assert log.WhichOneof("log_type") == "predict_log"
            request = log.predict_log.request
            assert request.model_spec.name == "model"
            arrays = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
            answer = runner.run(request.model_spec.signature_name, **arrays)
            assert np.isfinite(answer["vectors"]).all()
            shapes.add(arrays["token_ids"].shape)
    # Batch 1 and 3, lengths 1 and 7, and the two cases of padding alone.
    assert {(1, 1), (1, 7), (3, 1), (3, 7)} <= shapes
    assert len(shapes) == len(records)


def test_without_the_library_nothing_is_written_and_the_reason_is_returned(
    artifact, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    told = write_warmup(artifact, "model")
    assert 'pip install "keras-attention-layers[serve]"' in told
    assert not (artifact / WARMUP_NAME).exists()
