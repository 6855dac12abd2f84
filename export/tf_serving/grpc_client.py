"""Queries TF Serving over gRPC: python grpc_client.py localhost:8500 MODEL JSON.

JSON has the inputs by name: '{"text": ["Hello."]}'. The outputs are printed as JSON.
Needs the official stubs: pip install tensorflow-serving-api
"""

import argparse
import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def dtypes(stub, request):
    """Returns the dtype of each input, from the server: JSON has no dtypes."""
    query = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=request.model_spec, metadata_field=["signature_def"]
    )
    answer = stub.GetModelMetadata(query, timeout=60)
    known = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(known)
    signature = known.signature_def[request.model_spec.signature_name]
    return {name: info.dtype for name, info in signature.inputs.items()}


def plain(tensor):
    """Converts a tensor to lists, and bytes of text to `str`."""
    array = tf.make_ndarray(tensor)
    if array.dtype != object:
        return array.tolist()
    decode = np.vectorize(lambda text: text.decode("utf-8", "replace"), otypes=[object])
    return decode(array).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("inputs", type=json.loads)
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--version", type=int, help="default: the latest")
    given = parser.parse_args()
    request = predict_pb2.PredictRequest()
    request.model_spec.name = given.model
    request.model_spec.signature_name = given.signature
    if given.version is not None:
        request.model_spec.version.value = given.version
    with grpc.insecure_channel(given.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            known = dtypes(stub, request)
            for name, value in given.inputs.items():
                tensor = tf.make_tensor_proto(value, known.get(name))
                request.inputs[name].CopyFrom(tensor)
            answer = stub.Predict(request, timeout=60)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            raise SystemExit(1) from error
    print(json.dumps({name: plain(x) for name, x in answer.outputs.items()}))


if __name__ == "__main__":
    main()
