"""Queries Triton with its official client: python client.py localhost:8001 MODEL JSON.

JSON has the inputs by name: '{"text": ["Hello."]}'. The outputs are printed as one JSON
object.
"""

import argparse
import json
import queue

import numpy as np
import tritonclient.grpc as triton


def tensor(name, value, info):
    """Makes an input with the dtype and the rank of the server's metadata."""
    kind = info.datatype
    text = kind == "BYTES"
    array = np.array(value, object if text else triton.triton_to_np_dtype(kind))
    if array.ndim == len(info.shape) - 1 and info.shape[-1] == 1:
        array = array[..., None]  # one value per row is a column in Triton
    made = triton.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("inputs", type=json.loads)
    parser.add_argument("--version", default="", help="default: the latest")
    parser.add_argument("--copies", type=int, default=1, help="sent all at once")
    given = parser.parse_args()
    client = triton.InferenceServerClient(given.address)
    metadata = client.get_model_metadata(given.model, given.version)
    known = {info.name: info for info in metadata.inputs}
    if set(given.inputs) != set(known):
        got = f"Received: {sorted(given.inputs)}"
        raise SystemExit(f"Expected the inputs {sorted(known)}. {got}")
    inputs = [tensor(name, value, known[name]) for name, value in given.inputs.items()]
    answers = queue.Queue()
    for _ in range(given.copies):
        client.async_infer(
            given.model,
            inputs,
            lambda result, error: answers.put((result, error)),
            model_version=given.version,
        )
    for _ in range(given.copies):
        result, error = answers.get(timeout=60)
        if error is not None:
            raise SystemExit(str(error))
        outputs = {}
        for info in metadata.outputs:
            array = result.as_numpy(info.name)
            if info.datatype == "BYTES":
                array = np.vectorize(bytes.decode, otypes=[object])(array)
            outputs[info.name] = array.tolist()
        print(json.dumps(outputs, ensure_ascii=False))


if __name__ == "__main__":
    main()
