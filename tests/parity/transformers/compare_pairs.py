"""The comparison of models with an encoder and a decoder, as `compare` for others."""

import keras
import numpy as np
from parity.transformers.compare import (
    NEAR,
    assert_near,
    numbers,
    padded,
    torch_outputs,
)

import keras_attention as ka

PADDINGS = ((None, None), ("right", "right"), ("left", "right"))


def compare_pairs(model, reference, paddings=PADDINGS, near=NEAR):
    """Compares all outputs and attention weights of both sides at tokens.

    Args:
        model: Our model.
        reference: Their model, a `…ForConditionalGeneration` with eager attention.
        paddings: The sides on which source and target are padded.
        near: The largest relative error that is allowed.

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
            where = f"{name}, {source_side}, {target_side}"
            found = assert_near(one, other, mask, name=where, near=near)
            worst = max(worst, found)
    return worst


def compare_all(model, reference, paddings=PADDINGS):
    """Compares outputs, loss and cached steps; returns the outputs' largest error."""
    worst = compare_pairs(model, reference, paddings)
    compare_loss(model, reference)
    compare_steps(model)
    return worst


def our_outputs(model, source, target):
    """Returns the outputs and the attention weights of our model."""
    inputs = {
        "encoder_token_ids": source[0],
        "encoder_padding_mask": source[1],
        "decoder_token_ids": target[0],
        "decoder_padding_mask": target[1],
    }
    return model(inputs, return_hidden_states=True), ka.attention_maps(model, inputs)


def their_outputs(reference, source, target):
    """Returns the outputs of their model."""
    return torch_outputs(
        reference,
        input_ids=source[0],
        attention_mask=source[1].astype("int64"),
        decoder_input_ids=target[0],
        decoder_attention_mask=target[1].astype("int64"),
        output_attentions=True,
        output_hidden_states=True,
    )


def pairs(ours, maps, theirs, source_mask, target_mask):
    """Returns a dict of name to (ours, theirs, mask of the positions to compare)."""
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
    for side, mask in (("encoder", source_mask), ("decoder", target_mask)):
        states = (outputs[f"{side}_hidden_states"] for outputs in (ours, theirs))
        for index, (one, other) in enumerate(zip(*states, strict=True)):
            found[f"{side}, hidden state {index}"] = one, other, mask
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


def compare_loss(model, reference, near=NEAR):
    """Compares their loss of labels with the one that Keras computes of our logits."""
    source, target = (
        padded(model.vocabulary_size, "right"),
        padded(model.vocabulary_size, None, (5, 5, 5), seed=3),
    )
    labels = padded(model.vocabulary_size, None, (5, 5, 5), seed=4)[0]
    theirs = torch_outputs(
        reference,
        input_ids=source[0],
        attention_mask=source[1],
        decoder_input_ids=target[0],
        labels=labels,
    ).loss
    ours, _ = our_outputs(model, source, target)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return assert_near(loss(labels, ours["logits"]), theirs, name="loss", near=near)


def compare_steps(model, near=NEAR):
    """Compares the logits of steps through caches with those of the whole target."""
    source = padded(model.vocabulary_size, "left")
    ids, mask = padded(model.vocabulary_size, None, (7, 7, 7), seed=3)
    whole = numbers(our_outputs(model, source, (ids, mask))[0]["logits"])
    for kind, settings in ((ka.KVCache, {}), (ka.FixedKVCache, {"capacity": 7})):
        cache, parts = model.empty_cache(model.encode(*source), kind, **settings), []
        for part in np.split(ids, [3, 4, 5], axis=1):
            outputs = model.decode(part, cache=cache)
            cache = outputs["cache"]
            parts.append(numbers(outputs["logits"]))
        steps = np.concatenate(parts, axis=1)
        assert_near(steps, whole, name=kind.__name__, near=near)
