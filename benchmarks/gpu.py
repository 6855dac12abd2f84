"""`KERAS_BACKEND=torch python -m benchmarks.gpu` (or jax): attention on a GPU.

This is a command of its own, because the other groups time TensorFlow on a CPU. Our
`MultiHeadAttention` and Keras' have the same weights and no dropout. Padding queries
are excluded from the loss, because the two differ there (docs/drop-in.md).
"""

import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks.measure import Row, Settings, compare, take_turns

BATCH, HEADS, WIDTH = 2, 16, 1024
POLICIES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def main(
    lengths: Annotated[
        list[int] | None, typer.Option(help="Length T; repeatable.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Samples per layer.")] = 15,
    out: Annotated[Path | None, typer.Option(help="A JSON file.")] = None,
) -> None:
    """Time our layer and Keras' in turn; a ratio over 1 is in our favour."""
    if os.environ.get("KERAS_BACKEND") not in {"jax", "torch"}:
        received = os.environ.get("KERAS_BACKEND")
        raise typer.BadParameter(
            f"Set KERAS_BACKEND to torch or jax. Received: KERAS_BACKEND={received}"
        )
    console, rows = Console(stderr=True, highlight=False), []
    with console.status("starting") as status:
        for dtype in (*POLICIES, "float32"):
            for length in lengths or [512, 2048]:
                for masked in (False, True):
                    rows += _rows(dtype, length, masked, rounds, status.update)
                    for row in rows[-2:]:
                        console.print(_line(row))
    found = {"device": _device(), "rows": [vars(row) for row in rows]}
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(_device(), *map(_line, rows), sep="\n")


def _line(row: Row) -> str:
    spread = f"({row.low:.2f} to {row.high:.2f})"
    times = f"{row.ours:.3f} ms, {row.peer_name} {row.peer:.3f} ms"
    return f"{row.case}: {times}: {row.ratio:.2f}× {spread}"


def _rows(dtype, length, masked, rounds, progress) -> list[Row]:
    import keras

    import keras_attention as ka

    keras.config.set_dtype_policy(POLICIES.get(dtype, dtype))
    keras.utils.set_random_seed(0)
    theirs = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
    theirs.build((None, None, WIDTH), (None, None, WIDTH))
    layers = {"ours": ka.MultiHeadAttention.from_keras(theirs), "keras": theirs}
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, length, WIDTH)).astype("float32")
    padding_mask = np.arange(length) < np.array([[length], [length // 2 + 3]])
    make = {"jax": _on_jax, "torch": _on_torch}[keras.backend.backend()]
    rows = []
    for backward in (False, True):
        calls = {
            name: make(layer, x, padding_mask if masked else None, backward)
            for name, layer in layers.items()
        }
        mine, other = (np.asarray(call(), "float32") for call in calls.values())
        difference = abs(mine - other)[padding_mask if masked else ...]
        assert difference.max() <= 2e-2 * abs(mine).max()
        case = f"{dtype}, T={length}, {'padding' if masked else 'no mask'}, "
        case += "forward + backward" if backward else "forward"
        samples = take_turns(
            calls, Settings(rounds), lambda s, c=case: progress(f"{c}: {s}")
        )
        rows.append(compare("gpu", case, samples, *calls))
    return rows


def _on_torch(layer, x, mask, backward):
    import keras
    import torch

    x = keras.ops.convert_to_tensor(x)
    mask = None if mask is None else keras.ops.convert_to_tensor(mask)

    def call():
        source = x.clone().requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            output = layer(source, source, query_mask=mask, value_mask=mask)
            if backward:
                output = output if mask is None else output[mask]
                output.float().square().sum().backward()
                output = source.grad
        return keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))

    return call


def _on_jax(layer, x, mask, backward):
    import jax
    import keras

    weights = [w.value for w in layer.weights]

    def run(source, weights):
        with keras.StatelessScope(list(zip(layer.weights, weights, strict=True))):
            return layer(source, source, query_mask=mask, value_mask=mask)

    def loss(source, weights):
        output = run(source, weights).astype("float32")
        return (output**2 * (1 if mask is None else mask[..., None])).sum()

    if backward:  # gradients of the weights too, as in training
        function = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return lambda: np.asarray(jax.block_until_ready(function(x, weights))[0])
    function = jax.jit(run)
    return lambda: np.asarray(function(x, weights).astype("float32"))


def _device() -> str:
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return f"JAX {jax.__version__}, {jax.devices()[0].device_kind}"
    import torch

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else "CPU"
    return f"torch {torch.__version__}, {name}"


if __name__ == "__main__":
    typer.run(main)
