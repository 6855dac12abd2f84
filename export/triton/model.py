"""The model that Triton's python backend runs: an artifact, on batched requests."""

import contextlib
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        name = config["parameters"]["signature"]["string_value"]
        place = Path(args["model_repository"], args["model_version"], "artifact")
        manifest = json.loads((place / "manifest.json").read_text())
        self.signature = manifest["signatures"][name]
        onnx = manifest["format"] == "onnx"
        self.run = (open_onnx if onnx else open_saved_model)(place, name)

    def execute(self, requests):
        answers = [None] * len(requests)
        batches = {}
        for number, request in enumerate(requests):
            inputs = {
                key: triton.get_input_tensor_by_name(request, key).as_numpy()
                for key in self.signature["inputs"]
            }
            problem = self.problem(inputs)
            if problem:
                answers[number] = failed(problem)
            else:
                shapes = tuple(x.shape[1:] for x in inputs.values())
                batches.setdefault(shapes, []).append((number, inputs))
        for members in batches.values():
            self.answer(members, answers)
        return answers

    def answer(self, members, answers):
        """Runs all requests as one batch; if that fails, each alone."""
        together = {
            key: np.concatenate([inputs[key] for _, inputs in members])
            for key in self.signature["inputs"]
        }
        try:
            outputs = self.run(together)
        except Exception as error:
            if len(members) == 1:
                answers[members[0][0]] = failed(str(error))
            else:
                for member in members:
                    self.answer([member], answers)
            return
        start = 0
        for number, inputs in members:
            end = start + len(next(iter(inputs.values())))
            answers[number] = triton.InferenceResponse(
                [triton.Tensor(k, np.array(x[start:end])) for k, x in outputs.items()]
            )
            start = end

    def problem(self, inputs):
        """Returns what is wrong with a request; ONNX cannot check it itself."""
        for key, info in self.signature["inputs"].items():
            for axis, size in zip(info["shape"], inputs[key].shape, strict=True):
                limit = self.signature["max_lengths"].get(axis)
                if limit is not None and size > limit:
                    return f"Input '{key}': {axis} is at most {limit}. Received: {size}"
        for key, limit in self.signature["limits"].items():
            lowest, highest = inputs[key].min(initial=0), inputs[key].max(initial=0)
            if lowest < 0 or highest >= limit:
                got = f"Received: {lowest} to {highest}"
                return f"Input '{key}' must be in [0, {limit}). {got}"
        return None


def failed(reason):
    return triton.InferenceResponse(error=triton.TritonError(reason))


def open_onnx(place, name):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(place / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )
    outputs = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def open_saved_model(place, name):
    """Opens a SavedModel with the session loader, as TF Serving does."""
    import tensorflow as tf

    with contextlib.suppress(ImportError):
        import tensorflow_text  # noqa: F401 (registers its operations)
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(place))
    definition = loaded.signature_def[name]
    fetches = {key: info.name for key, info in definition.outputs.items()}
    feeds = {key: info.name for key, info in definition.inputs.items()}
    return lambda inputs: session.run(fetches, {feeds[k]: x for k, x in inputs.items()})
