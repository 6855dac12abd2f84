"""Small artifacts to serve, written without verification in a fresh process."""

import http.client
import json

import keras
import tensorflow as tf

from keras_attention.export.artifact.description import TensorInfo
from keras_attention.export.artifact.manifest import write_manifest
from keras_attention.export.artifact.staging import staging
from keras_attention.export.cases.grid import CASES_NAME, answered, grid, save_cases
from keras_attention.export.formats.saved_model import write_saved_model
from keras_attention.export.signatures.signature import Signature
from keras_attention.export.signatures.static_axes import with_sizes

VOCABULARY, LENGTH, UNITS = 11, 7, 3
IDS = {
    "token_ids": TensorInfo("int32", ("batch", "sequence")),
    "weights": TensorInfo("float32", ("batch", "sequence")),
}


def signatures(embedding):
    def embed(token_ids, weights):
        return {"vectors": tf.einsum("bs,bsu->bu", weights, embedding(token_ids))}

    def spell(text):
        lengths = tf.strings.length(text, unit="UTF8_CHAR")
        return {"again": tf.strings.join([text, "!"]), "lengths": lengths}

    ids = Signature(
        "serving_default",
        embed,
        IDS,
        {"vectors": TensorInfo("float32", ("batch", UNITS))},
        limits={"token_ids": VOCABULARY},
        max_lengths={"sequence": LENGTH},
    )
    texts = Signature(
        "spell",
        spell,
        {"text": TensorInfo("string", ("batch",))},
        {
            "again": TensorInfo("string", ("batch",)),
            "lengths": TensorInfo("int32", ("batch",)),
        },
    )
    return [ids, texts]


def small_artifact(folder, *, seed=3, format="saved_model"):
    """Write an artifact; return the function that its `serving_default` computes."""
    keras.utils.set_random_seed(seed)
    embedding = keras.layers.Embedding(VOCABULARY, UNITS)
    embedding.build()
    chosen = signatures(embedding)[: 2 if format == "saved_model" else 1]
    if format == "litert":
        chosen = with_sizes(chosen, {"batch": 2, "sequence": 3})
    with staging(folder) as place:
        if format == "onnx":
            from keras_attention.export.formats.onnx.writer import write_onnx

            write_onnx(chosen[0], place / "serving_default.onnx", opset=18)
        elif format == "litert":
            from keras_attention.export.formats.litert import write_litert

            file = place / "serving_default.tflite"
            write_litert(chosen[0], file, variables=embedding.variables)
        else:
            write_saved_model(chosen, place, variables=embedding.variables)
        cases = [
            case
            for signature in chosen[:1]
            for case in answered(
                grid(signature), signature.function, keras.ops.convert_to_numpy
            )
        ]
        save_cases(cases, place / CASES_NAME)
        write_manifest(place, format=format, signatures=chosen, weights_bytes=132)
    function = chosen[0].function
    return lambda **inputs: function(**inputs)["vectors"].numpy()


def ask(port, method, path, body=None, headers=None):
    """Send one HTTP request: (status, the response's JSON or text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        if isinstance(body, dict):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        is_json = "json" in response.headers["content-type"]
        return response.status, json.loads(text) if is_json else text
    finally:
        connection.close()
