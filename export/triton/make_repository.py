"""Makes a Triton model repository from an artifact: python make_repository.py --help.

Needs the standard library only. The configuration is written from the inputs and
outputs in the manifest. One Triton model serves one signature.
"""

import argparse
import json
import shutil
from pathlib import Path

TYPES = {"bool": "BOOL", "string": "STRING", "float16": "FP16", "float32": "FP32"}
TYPES |= {"float64": "FP64", "int8": "INT8", "int32": "INT32", "int64": "INT64"}
CONFIG = """name: "{name}"
backend: "python"
max_batch_size: {max_batch}
{inputs}
{outputs}
# Requests of the same shape are batched; none is padded.
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
version_policy {{ all {{ }} }}
parameters {{ key: "signature" value {{ string_value: "{signature}" }} }}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def versions(path):
    """Returns version -> folder, from a base folder or from one artifact."""
    if (path / "manifest.json").is_file():
        return {int(path.name) if path.name.isdecimal() else 1: path}
    found = {int(p.name): p for p in path.iterdir() if p.name.isdecimal()}
    if not found:
        raise SystemExit(
            f"No artifact found: expected a manifest.json. Received: {path}"
        )
    return found


def described(side, tensors):
    """Writes the inputs or outputs of config.pbtxt; Triton adds the batch axis."""
    lines = []
    for name, tensor in tensors.items():
        batch, *rest = tensor["shape"]
        if batch != "batch":
            raise SystemExit(f"{name}: expected the batch first. Received: {batch}")
        # Triton has no scalars: one text per row has an axis of 1, reshaped away.
        dims = [size if isinstance(size, int) else -1 for size in rest] or [1]
        reshape = "" if rest else " reshape { shape: [] }"
        kind = TYPES[tensor["dtype"]]
        line = f'{side} [ {{ name: "{name}" data_type: TYPE_{kind} dims: {dims}'
        lines.append(f"{line}{reshape} }} ]")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, help="base folder, or one version")
    parser.add_argument("repository", type=Path)
    parser.add_argument("--name", required=True, help="the Triton model's name")
    parser.add_argument("--signature", default="serving_default")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--delay", type=int, default=2000, help="microseconds to wait")
    given = parser.parse_args()
    found = versions(given.artifact)
    manifest = json.loads((found[max(found)] / "manifest.json").read_text())
    if given.signature not in manifest["signatures"]:
        known = ", ".join(manifest["signatures"])
        raise SystemExit(f"Expected one of {known}. Received: {given.signature}")
    signature = manifest["signatures"][given.signature]
    model = given.repository / given.name
    for number, folder in found.items():
        place = model / str(number)
        place.mkdir(parents=True)
        shutil.copytree(folder, place / "artifact")
        shutil.copy(Path(__file__).with_name("model.py"), place)
    config = CONFIG.format(
        name=given.name,
        max_batch=given.max_batch,
        delay=given.delay,
        signature=given.signature,
        inputs=described("input", signature["inputs"]),
        outputs=described("output", signature["outputs"]),
    )
    (model / "config.pbtxt").write_text(config)
    print(f"{model}: versions {sorted(found)}")


if __name__ == "__main__":
    main()
