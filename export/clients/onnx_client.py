"""Runs an ONNX artifact with numpy and onnxruntime: python onnx_client.py FOLDER JSON.

JSON has the inputs by name: '{"token_ids": [[1, 2]], "padding_mask": [[true, true]]}'.
The outputs are printed as JSON. ONNX cannot refuse ids outside the vocabulary; the
manifest has the limits, and this client checks them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime


class Artifact:
    """One signature of an ONNX artifact; threads: 0 for all cores."""

    def __init__(self, folder, signature=None, threads=0):
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise SystemExit(
                "Expected the folder of an ONNX artifact, which has a manifest.json. "
                f"Received: {folder}"
            )
        known = json.loads((folder / "manifest.json").read_text())["signatures"]
        name = signature or next(iter(known))
        if name not in known:
            raise SystemExit(
                f"Expected a signature of {sorted(known)}. Received: {name}"
            )
        self.signature = known[name]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # After a call, spinning threads would keep the cores busy.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(
            str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, **inputs):
        """Runs the signature on arrays by name; returns a dict of arrays."""
        expected = self.signature["inputs"]
        if inputs.keys() != expected.keys():
            raise SystemExit(f"Expected inputs {[*expected]}. Received: {[*inputs]}")
        arrays = {
            name: _array(name, value, expected[name]) for name, value in inputs.items()
        }
        for name, limit in self.signature["limits"].items():
            lowest, highest = arrays[name].min(initial=0), arrays[name].max(initial=0)
            if lowest < 0 or highest >= limit:
                got = f"Received: {lowest} to {highest}"
                raise SystemExit(f"Expected {name} in [0, {limit}). {got}")
        for name, array in arrays.items():
            for axis, size in zip(expected[name]["shape"], array.shape, strict=True):
                limit = self.signature["max_lengths"].get(axis, size)
                if size > limit:
                    got = f"Received: {size}"
                    raise SystemExit(f"Expected {axis} of {name} up to {limit}. {got}")
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, arrays), strict=True))


def _array(name, value, info):
    """Returns an input as an array of its dtype and number of axes."""
    try:
        array = np.asarray(value, info["dtype"])
    except (TypeError, ValueError) as error:
        reason = f"{name} has rows of different lengths, or no numbers: {error}"
        raise SystemExit(reason) from error
    if array.ndim != len(info["shape"]):
        shape = ", ".join(map(str, info["shape"]))
        raise SystemExit(f"Expected {name} as [{shape}]. Received: {array.ndim} axes")
    return array


def inputs_of(text):
    """Reads the inputs from the command line."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("expected an object, with inputs by name")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("inputs", type=inputs_of)
    parser.add_argument("--signature", help="default: the first")
    given = parser.parse_args()
    outputs = Artifact(given.folder, given.signature)(**given.inputs)
    print(json.dumps({name: array.tolist() for name, array in outputs.items()}))


if __name__ == "__main__":
    main()
