"""The signature `hidden_states`: the vectors after each layer of a model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras import ops

from keras_attention.export.signatures.signature import Signature, TensorInfo


def hidden_states_signature(
    model: Any, served: Signature, states: Mapping[str, tuple[int | str, ...]]
) -> Signature:
    """Returns `hidden_states`, which is exported only if it is named.

    The outputs are called `hidden_states_0` (before the first layer),
    `hidden_states_1` and so on.

    Args:
        model: A model whose call takes `return_hidden_states`.
        served: The signature with the model's inputs.
        states: The names of the outputs that hold hidden states, with their axes
            before the features.
    """

    def answer(**inputs):
        outputs = model(inputs, training=False, return_hidden_states=True)
        return {
            f"{name}_{index}": state
            for name in states
            for index, state in enumerate(outputs[name])
        }

    # The sizes are found by running the model once, on two tokens or one image.
    found = answer(
        **{
            name: ops.ones(
                [1, *(2 if isinstance(axis, str) else axis for axis in info.shape[1:])],
                dtype=info.dtype,
            )
            for name, info in served.inputs.items()
        }
    )
    outputs = {
        name: TensorInfo("float32", (*states[name.rpartition("_")[0]], state.shape[-1]))
        for name, state in found.items()
    }
    return replace(
        served,
        name="hidden_states",
        function=answer,
        outputs=outputs,
        on_request=True,
    )
