"""Writes warm-up requests, which TF Serving runs before a version takes traffic."""

from pathlib import Path

from keras_attention.export.cases.grid import CASES_NAME, load_cases

WARMUP_NAME = "assets.extra/tf_serving_warmup_requests"
MOST_PER_SIGNATURE = 16  # TF Serving refuses a version with more than 1,000 in all


def write_warmup(folder: Path, name: str) -> str:
    """Write one request for each shape among a SavedModel's verification cases.

    A batch of texts has the shape of its longest text, which decides the sequence
    length in the model.

    Needs tensorflow-serving-api. Without it nothing is written.

    Args:
        folder: The SavedModel, with its cases.
        name: The model's name in requests.

    Returns:
        A text that says what was done, or why nothing was.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError as error:
        return (
            "No warm-up requests for TF Serving: they need tensorflow-serving-api (pip "
            f'install "keras-attention-layers[serve]"): {error}'
        )
    import tensorflow as tf

    chosen = {}
    for case in load_cases(folder / CASES_NAME):
        tensors = {key: tf.make_tensor_proto(x) for key, x in case.inputs.items()}
        shapes = [
            (key, str(tensor.tensor_shape), max(map(len, tensor.string_val), default=0))
            for key, tensor in sorted(tensors.items())
        ]
        of_signature = chosen.setdefault(case.signature, {})
        if len(of_signature) < MOST_PER_SIGNATURE:
            of_signature.setdefault(str(shapes), tensors)
    file = folder / WARMUP_NAME
    file.parent.mkdir()
    count = 0
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, requests in chosen.items():
            for tensors in requests.values():
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key, tensor in tensors.items():
                    request.inputs[key].CopyFrom(tensor)
                writer.write(log.SerializeToString())
                count += 1
    return f"Wrote {count} warm-up requests for TF Serving"
