"""A tiny GPT-2 of transformers, and our model with its weights."""

import numpy as np

import keras_attention as ka

VOCABULARY, POSITIONS = 23, 64
PAD = 22


def gpt2_pair(*, scale=1.0, seed=0, layers=2, heads=2, width=12):
    """Returns `(theirs, ours)`: random weights, except those of normalizations."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        initializer_range=0.4 * scale,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    theirs = GPT2LMHeadModel(config).eval()
    ours = ka.GPTDecoder(
        VOCABULARY, layers, heads, width, 4 * width, max_sequence_length=POSITIONS
    )
    copy_gpt2(theirs, ours)
    return theirs, ours


def copy_gpt2(theirs, ours):
    """Copies the weights of a `GPT2LMHeadModel` to a `GPTDecoder`."""
    state = {k: v.detach().numpy() for k, v in theirs.transformer.named_parameters()}

    def put(layer, *names):
        for weight, name in zip(layer.weights, names, strict=True):
            weight.assign(np.reshape(state[name], weight.shape))

    def both(name):
        return f"{name}.weight", f"{name}.bias"

    put(ours.token_embedding, "wte.weight")
    put(ours.position_embedding, "wpe.weight")
    put(ours.final_normalization, *both("ln_f"))
    for index, block in enumerate(ours.blocks):
        at = f"h.{index}."
        for kind in ("weight", "bias"):
            parts = np.split(state[f"{at}attn.c_attn.{kind}"], 3, axis=-1)
            for name, part in zip("qkv", parts, strict=True):
                state[f"{at}{name}.{kind}"] = part
        attention, feed_forward = block.attention, block.feed_forward
        put(attention.query_projection, *both(at + "q"))
        put(attention.key_projection, *both(at + "k"))
        put(attention.value_projection, *both(at + "v"))
        put(attention.output_projection, *both(at + "attn.c_proj"))
        put(block.attention_residual, *both(at + "ln_1"))
        put(block.feed_forward_residual, *both(at + "ln_2"))
        put(feed_forward.intermediate, *both(at + "mlp.c_fc"))
        put(feed_forward.output_projection, *both(at + "mlp.c_proj"))


def their_tokens(model, prompts, settings, *, ends=()):
    """Returns the new tokens of `transformers.generate`, with each row's end token."""
    import torch

    width = max(map(len, prompts))
    ids = [[PAD] * (width - len(p)) + list(p) for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    found = model.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        pad_token_id=PAD,
        eos_token_id=list(ends) or None,
        use_cache=True,
        **settings,
    )
    rows = []
    for row in found[:, width:].tolist():
        stops = [i for i, token in enumerate(row) if token in ends]
        # If fewer tokens are allowed than there are beams, a row is -1 or padding.
        unpadded = [token for token in row if token not in (PAD, -1)]
        rows.append(row[: stops[0] + 1] if stops else unpadded)
    return rows
