"""The steps that the tests of this folder share: load, compare, save again.

    reference = random_model("Bert", "Model", **SIZES)
    model = loaded(reference, tmp_path / "theirs")
    compare(model, reference, outputs={"sequence_output": "last_hidden_state"})
    check_saving(model, reference, tmp_path)

`check_family` runs these steps. `compare_pairs.py` compares encoder-decoder
models.
"""

import json

import keras
import numpy as np
import pytest

import keras_attention as ka

LENGTHS = (11, 7, 3)
SIDES = (None, "right", "left")
NEAR = 1e-5


def random_model(family, kind, **config):
    """Returns their model `family + kind` with this config and random parameters."""
    import transformers

    settings = getattr(transformers, f"{family}Config")(**config)
    return randomized(getattr(transformers, family + kind)(settings))


def randomized(reference, seed=1):
    """Draws all parameters of their model, also biases and norms; sets it to `eval`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            near_one = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(draw * 0.25 + float(near_one))
        for module in reference.modules():
            if hasattr(module, "create_weight"):  # a table that must hold sinusoids
                module.weight.copy_(module.create_weight())
        if hasattr(reference, "final_logits_bias"):  # a buffer, not a parameter
            reference.final_logits_bias.normal_(generator=generator)
    return reference.eval()


def loaded(reference, folder, **settings):
    """Saves their model and loads it as ours."""
    reference.save_pretrained(folder)
    return ka.from_pretrained(folder, **settings)


def padded(vocabulary_size, side, lengths=LENGTHS, seed=2):
    """Returns ids and mask, int and bool `[B, T]`, padded on one side.

    With `side=None` all rows are as long as the longest one.
    """
    rng = np.random.default_rng(seed)
    size = max(lengths)
    ids = rng.integers(0, vocabulary_size, (len(lengths), size))
    mask = np.ones(ids.shape, bool)
    for row, length in enumerate(lengths):
        if side == "right":
            mask[row, length:] = False
        if side == "left":
            mask[row, : size - length] = False
    return ids, mask


def error(ours, theirs):
    """Returns the largest difference, relative to the reference's largest number."""
    return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


def numbers(tensor):
    """Returns a tensor of torch or of Keras as an array."""
    if hasattr(tensor, "detach"):
        return tensor.detach().numpy()
    return keras.ops.convert_to_numpy(tensor)


def assert_near(ours, theirs, mask=..., *, name="output", near=NEAR):
    """Compares two tensors at the positions of `mask`; returns the relative error."""
    ours, theirs = numbers(ours), numbers(theirs)
    assert ours.shape == theirs.shape, name
    found = float(error(ours[mask], theirs[mask]))
    assert found <= near, f"{name}: {found:.1e}"
    return found


def torch_outputs(reference, **inputs):
    """Calls their model with arrays as tensors, and with other values as they are."""
    import torch

    is_array = {name: isinstance(value, np.ndarray) for name, value in inputs.items()}
    with torch.no_grad():
        return reference(
            **{
                name: torch.as_tensor(value) if is_array[name] else value
                for name, value in inputs.items()
            }
        )


def their_outputs(reference, ids, mask, *, count_positions=False, **inputs):
    """Returns the outputs of their model for a padded batch.

    Args:
        reference: Their model, with `attn_implementation="eager"` for attentions.
        ids: Int `[B, T]`.
        mask: Bool `[B, T]`.
        count_positions: Whether to pass positions that are counted over non-padding
            tokens, as their `generate` and our decoders do.
        **inputs: Further inputs, as arrays.
    """
    inputs = {"input_ids": ids, "attention_mask": mask.astype("int64"), **inputs}
    if count_positions:
        inputs["position_ids"] = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    flags = {"output_attentions": True, "output_hidden_states": True}
    return torch_outputs(reference, **inputs, **flags)


def compare(
    model,
    reference,
    outputs,
    *,
    vocabulary_size=None,
    count_positions=False,
    near=NEAR,
):
    """Compares outputs, hidden states and weights at tokens, padded on each side.

    Args:
        model: Our model, called with `padding_mask=`.
        reference: Their model.
        outputs: A dict of our name of an output to theirs, or to a function of their
            outputs. `[B, T, …]` is compared at non-padding tokens, `[B, E]` in rows
            whose first token is no padding.
        vocabulary_size: The ids are drawn below it; by default the model's.
        count_positions: As in `their_outputs`.
        near: The largest relative error that is allowed.

    Returns:
        The largest error found.
    """
    worst = 0.0
    for side in SIDES:
        ids, mask = padded(vocabulary_size or model.vocabulary_size, side)
        theirs = their_outputs(reference, ids, mask, count_positions=count_positions)
        ours = model(ids, padding_mask=mask, return_hidden_states=True)
        pairs = {}
        for name, their_name in outputs.items():
            output = their_name(theirs) if callable(their_name) else theirs[their_name]
            # A pooler reads position 0, so rows that begin with padding have no output.
            compared = mask if output.ndim > 2 else mask[:, 0]
            pairs[name] = numbers(ours[name]), numbers(output), compared
        states = zip(ours["hidden_states"], theirs.hidden_states, strict=True)
        for index, (one, other) in enumerate(states):
            pairs[f"hidden state {index}"] = numbers(one), numbers(other), mask
        maps = ka.attention_maps(model, ids, padding_mask=mask)
        assert len(maps) == len(theirs.attentions)
        for (name, weights), attention in zip(
            maps.items(), theirs.attentions, strict=True
        ):
            both = (numbers(x).swapaxes(1, 2) for x in (weights, attention))
            pairs[name] = *both, mask  # [B, T, N, S]
        for name, (one, other, compared) in pairs.items():
            where = f"{name}, padding {side}"
            found = assert_near(one, other, compared, name=where, near=near)
            worst = max(worst, found)
    return worst


def check_saving(model, reference, tmp_path, **settings):
    """Saves our model; they load equal tensors, and we load an equal model.

    Returns:
        Their model, loaded from our files.
    """
    ka.save_pretrained(model, tmp_path / "back")
    again, info = type(reference).from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs, back = reference.state_dict(), again.state_dict()
    assert set(theirs) == set(back)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(tensor.numpy(), back[name].numpy(), err_msg=name)
    once_more = ka.from_pretrained(tmp_path / "back", **settings)
    assert type(once_more) is type(model)
    for ours, same in zip(model.weights, once_more.weights, strict=True):
        np.testing.assert_array_equal(numbers(ours), numbers(same), err_msg=ours.path)
    config, wanted = once_more.get_config(), model.get_config()
    assert {**config, "name": ""} == {**wanted, "name": ""}
    return again


def check_family(reference, tmp_path, compare_with, **settings):
    """Loads their model as ours, compares both, and saves it again.

    Args:
        reference: Their model.
        tmp_path: The folder of the test.
        compare_with: A function of our model and theirs that returns an error.
        **settings: Arguments of `from_pretrained`.

    Returns:
        The error, and their model loaded from our files.
    """
    model = loaded(reference, tmp_path / "theirs", **settings)
    worst = compare_with(model, reference)
    return worst, check_saving(model, reference, tmp_path, **settings)


def check_refused_option(reference, option, folder):
    """Asserts that a config.json with this option is refused with the option's name."""
    reference.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **option}))
    with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*Received: "):
        ka.from_pretrained(folder)


def compare_head(
    model, reference, inputs, mask, *, loss_target=None, expected=None, **labels
):
    """Compares the logits of a task, and its loss if there is a target.

    Args:
        model: Our task model.
        reference: Their task model.
        inputs: A dict of our inputs as arrays.
        mask: The positions of the logits to compare.
        loss_target: The target of our loss.
        expected: A function of their outputs that returns the logits; by default their
            `logits`.
        **labels: Their inputs for the loss.

    Returns:
        The relative error of the logits.
    """
    names = {
        "token_ids": "input_ids",
        "segment_ids": "token_type_ids",
        "padding_mask": "attention_mask",
    }
    given = {names[name]: array.astype("int64") for name, array in inputs.items()}
    outputs = torch_outputs(reference, **given, **labels)
    logits = numbers(model(inputs))
    theirs = outputs.logits if expected is None else expected(outputs)
    worst = assert_near(logits, theirs, mask, name="logits")
    if loss_target is not None:
        loss = float(model.compile_arguments()["loss"](loss_target, logits))
        difference = abs(loss - float(outputs.loss))
        assert difference <= NEAR * float(outputs.loss), "loss"
    return worst
