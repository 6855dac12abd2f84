"""What every test of a family does with transformers' own model, in one place.

reference = randomized(transformers.BertModel(transformers.BertConfig(…)))
model = loaded(reference, tmp_path / "theirs")
compare(model, reference, outputs={"sequence_output": "last_hidden_state"})
there_and_back(model, reference, tmp_path)
"""

import keras
import numpy as np
from safetensors.numpy import load_file

import keras_attention as ka

LENGTHS = (11, 7, 3)


def randomized(reference, seed=1):
    """The same model with every parameter drawn, biases and norms too; in `eval`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            near_one = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(draw * 0.25 + float(near_one))
    return reference.eval()


def loaded(reference, folder, **settings):
    """Their model, saved by them and loaded by us."""
    reference.save_pretrained(folder)
    return ka.from_pretrained(folder, **settings)


def padded(vocabulary_size, side, lengths=LENGTHS, seed=2):
    """`(ids, mask)` int and bool `[B, T]`: rows of these lengths, padded on one side.

    Rows of one length, `side=None`, are as long as the longest.
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
    """The largest difference, as a share of the largest number of the reference."""
    return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


def numbers(tensor):
    """A tensor of torch or of Keras as an array."""
    if hasattr(tensor, "detach"):
        return tensor.detach().numpy()
    return keras.ops.convert_to_numpy(tensor)


def their_outputs(reference, ids, mask, *, count_positions=False, **inputs):
    """What transformers computes for a padded batch.

    Args:
        reference: Their model, with `attn_implementation="eager"` for attentions.
        ids: Int `[B, T]`.
        mask: Bool `[B, T]`.
        count_positions: Whether positions are counted over real tokens, as their
            `generate` does and our decoders do; else they are left to the model.
        **inputs: More inputs as arrays.
    """
    import torch

    inputs = {"input_ids": ids, "attention_mask": mask.astype("int64"), **inputs}
    if count_positions:
        inputs["position_ids"] = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        return reference(
            **{name: torch.as_tensor(array) for name, array in inputs.items()},
            output_attentions=True,
            output_hidden_states=True,
        )


def compare(
    model,
    reference,
    outputs,
    *,
    vocabulary_size=None,
    count_positions=False,
    near=1e-5,
):
    """Every output and attention weight at real tokens, on both paddings and none.

    Args:
        model: Ours, called with `padding_mask=`.
        reference: Theirs.
        outputs: Our name of an output to theirs, or to a function of theirs.
            `[B, T, …]` is compared at real
            tokens, `[B, E]` of the first token where that is real.
        vocabulary_size: Ids are drawn below it; the model's when `None`.
        count_positions: See `their_outputs`.
        near: The largest relative error allowed.

    Returns:
        The largest error found.
    """
    worst = 0.0
    for side in (None, "right", "left"):
        ids, mask = padded(vocabulary_size or model.vocabulary_size, side)
        theirs = their_outputs(reference, ids, mask, count_positions=count_positions)
        ours = model(ids, padding_mask=mask)
        pairs = {}
        for name, their_name in outputs.items():
            output = their_name(theirs) if callable(their_name) else theirs[their_name]
            pair = numbers(ours[name]), numbers(output)
            per_token = pair[1].ndim > 2
            # A pooler reads position 0: nothing is there where that is padding.
            seen = mask if per_token else mask[:, 0]
            pairs[name] = [x[seen] for x in pair]
        maps = ka.attention_maps(model, ids, padding_mask=mask)
        assert len(maps) == len(theirs.attentions)
        for (name, ours_of_layer), attention in zip(
            maps.items(), theirs.attentions, strict=True
        ):
            pair = ours_of_layer, numbers(attention)  # [B, N, T, S]
            pairs[name] = [x.swapaxes(1, 2)[mask] for x in pair]
        for name, (ours_of, theirs_of) in pairs.items():
            assert ours_of.shape == theirs_of.shape, name
            far = error(ours_of, theirs_of)
            assert far <= near, f"{name}, padding {side}: {far:.1e}"
            worst = max(worst, float(far))
    return worst


def there_and_back(model, reference, tmp_path, **settings):
    """We save, they load: same tensors bit for bit, same config, and we load again."""
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


def stored_tensors(folder):
    """Name to array of a folder's model.safetensors."""
    return load_file(folder / "model.safetensors")
