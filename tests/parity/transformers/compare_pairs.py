"""`compare` for models of an encoder and a decoder."""

import keras
import numpy as np
from parity.transformers.compare import error, numbers, padded

import keras_attention as ka

PADDINGS = ((None, None), ("right", "right"), ("left", "right"))


def compare_pairs(model, reference, paddings=PADDINGS, near=1e-5):
    """Every output and attention weight of both sides, at real tokens.

    Args:
        model: Ours.
        reference: Theirs, a `…ForConditionalGeneration` with eager attention.
        paddings: Sides on which source and target are padded.
        near: The largest relative error allowed.

    Returns:
        The largest error found.
    """
    worst = 0.0
    for source_side, target_side in paddings:
        source = padded(model.vocabulary_size, source_side, seed=2)
        target = padded(model.vocabulary_size, target_side, (5, 7, 2), seed=3)
        ours, maps = our_outputs(model, source, target)
        theirs = their_outputs(reference, source, target)
        for name, (one, other, mask) in pairs(
            ours, maps, theirs, source[1], target[1]
        ).items():
            assert one.shape == other.shape, name
            far = error(one[mask], other[mask])
            assert far <= near, f"{name}, {source_side}, {target_side}: {far:.1e}"
            worst = max(worst, float(far))
    return worst


def our_outputs(model, source, target):
    inputs = {
        "encoder_token_ids": source[0],
        "encoder_padding_mask": source[1],
        "decoder_token_ids": target[0],
        "decoder_padding_mask": target[1],
    }
    return model(inputs), ka.attention_maps(model, inputs)


def their_outputs(reference, source, target):
    import torch

    inputs = {
        "input_ids": source[0],
        "attention_mask": source[1].astype("int64"),
        "decoder_input_ids": target[0],
        "decoder_attention_mask": target[1].astype("int64"),
    }
    with torch.no_grad():
        return reference(
            **{name: torch.as_tensor(array) for name, array in inputs.items()},
            output_attentions=True,
            output_hidden_states=True,
        )


def pairs(ours, maps, theirs, source_mask, target_mask):
    """Name to (ours, theirs, the places to compare)."""
    found = {
        "encoder_sequence_output": (
            ours["encoder_sequence_output"],
            theirs.encoder_last_hidden_state,
            source_mask,
        ),
        "sequence_output": (
            ours["sequence_output"],
            theirs.decoder_hidden_states[-1],
            target_mask,
        ),
    }
    if "logits" in theirs:
        found["logits"] = (ours["logits"], theirs.logits, target_mask)
    kinds = {
        "encoder_block_{}/attention": (theirs.encoder_attentions, source_mask),
        "decoder_block_{}/attention": (theirs.decoder_attentions, target_mask),
        "decoder_block_{}/cross_attention": (theirs.cross_attentions, target_mask),
    }
    for name, (attentions, mask) in kinds.items():
        for index, attention in enumerate(attentions):
            key = name.format(index)
            found[key] = (maps[key], attention, mask)
    assert len(maps) == sum(len(attentions) for attentions, _ in kinds.values())
    return {
        name: (_by_token(one), _by_token(other), mask)
        for name, (one, other, mask) in found.items()
    }


def _by_token(x):
    x = numbers(x)
    return x.swapaxes(1, 2) if x.ndim == 4 else x  # [B, T, N, S]


def compare_loss(model, reference, near=1e-5):
    """Their loss of labels, and the one that Keras computes from our logits."""
    import torch

    source, target = (
        padded(model.vocabulary_size, "right"),
        padded(model.vocabulary_size, None, (5, 5, 5), seed=3),
    )
    labels = padded(model.vocabulary_size, None, (5, 5, 5), seed=4)[0]
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.as_tensor(source[0]),
            attention_mask=torch.as_tensor(source[1]),
            decoder_input_ids=torch.as_tensor(target[0]),
            labels=torch.as_tensor(labels),
        ).loss
    ours, _ = our_outputs(model, source, target)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    far = error(numbers(loss(labels, ours["logits"])), numbers(theirs))
    assert far <= near, f"loss: {far:.1e}"
    return float(far)


def compare_steps(model, near=1e-5):
    """Token by token through caches: the logits of the whole target."""
    source = padded(model.vocabulary_size, "left")
    ids, mask = padded(model.vocabulary_size, None, (7, 7, 7), seed=3)
    whole = numbers(our_outputs(model, source, (ids, mask))[0]["logits"])
    for kind, settings in ((ka.KVCache, {}), (ka.FixedKVCache, {"capacity": 7})):
        cache, parts = model.empty_cache(model.encode(*source), kind, **settings), []
        for part in np.split(ids, [3, 4, 5], axis=1):
            outputs = model.decode(part, cache=cache)
            cache = outputs["cache"]
            parts.append(numbers(outputs["logits"]))
        far = error(np.concatenate(parts, axis=1), whole)
        assert far <= near, f"{kind.__name__}: {far:.1e}"
