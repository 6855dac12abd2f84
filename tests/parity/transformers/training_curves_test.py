"""A training has the losses of a training loop of transformers, step by step."""

import keras
import numpy as np
import pytest
from parity.transformers.compare import padded

import keras_attention as ka

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENCODER = {
    "vocab_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 33,
    "intermediate_size": 47,
    "max_position_embeddings": 61,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DECODER = {
    "vocab_size": 97,
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 33,
    "n_positions": 61,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": 0,
}
T5 = {
    "vocab_size": 97,
    "num_layers": 2,
    "num_heads": 3,
    "d_model": 33,
    "d_kv": 11,
    "d_ff": 47,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
# Name -> family, kind, config, the settings that load it as a task of ours.
TASKS = {
    "classification": ("Bert", "ForSequenceClassification", ENCODER, {}),
    "tagging": ("Bert", "ForTokenClassification", ENCODER, {}),
    "question answering": ("Bert", "ForQuestionAnswering", ENCODER, {}),
    "causal language model": ("GPT2", "LMHeadModel", DECODER, {}),
    "T5": ("T5", "ForConditionalGeneration", T5, {}),
}
RATE = 3e-3
T5_EPSILON = 1e-6


def batch_of(task, step):
    """Returns the ids, the mask and the labels of one step; there are four batches."""
    draw = np.random.default_rng(100 + step % 4)
    # Their softmax over the tokens of a context counts padding too, ours does not.
    side = None if task == "question answering" else "right"
    ids, mask = padded(96, side, seed=step % 4)
    ids = ids + 1  # torch learns nothing at 0, the id of padding
    mask = mask.astype(bool)
    if task == "classification":
        return ids, mask, draw.integers(0, 5, len(ids))
    if task == "question answering":
        return ids, mask, draw.integers(0, 3, (len(ids), 2))
    if task == "T5":
        labels = draw.integers(1, 97, (len(ids), 7))
        labels[1, 5:] = labels[2, 2:] = -100
        return ids, mask, labels
    if task == "tagging":
        return ids, mask, np.where(mask, draw.integers(0, 5, ids.shape), -100)
    return ids, mask, np.where(mask, ids, -100)


def their_loss(task, model, ids, mask, labels):
    """Returns the loss of their model, without its rounding to float32."""
    cross_entropy = torch.nn.functional.cross_entropy
    if task == "T5":
        found = model(input_ids=ids, attention_mask=mask, labels=labels)
    else:
        found = model(input_ids=ids, attention_mask=mask)
    if task == "question answering":
        start = cross_entropy(found.start_logits, labels[:, 0])
        return (start + cross_entropy(found.end_logits, labels[:, 1])) / 2
    logits = found.logits
    if task == "causal language model":
        logits, labels = logits[:, :-1], labels[:, 1:]
    return cross_entropy(logits.flatten(0, -2), labels.flatten())


def their_losses(task, model, steps):
    """Runs the loop of transformers: its groups, schedule, clipping and optimizer."""
    from transformers import get_linear_schedule_with_warmup

    decayed, others = [], []
    for name, parameter in model.named_parameters():
        plain = "bias" in name or "norm" in name.lower() or ".ln_" in name
        (others if plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": 0.01},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    losses = []
    for step in range(steps):
        ids, mask, labels = (torch.tensor(x) for x in batch_of(task, step))
        loss = their_loss(task, model, ids, mask.long(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return np.array(losses)


def our_losses(task, model, steps):
    optimizer = ka.fine_tuning_optimizer(RATE, steps)
    model.compile(optimizer, run_eagerly=False, **model.compile_arguments())
    losses = []
    for step in range(steps):
        ids, mask, labels = batch_of(task, step)
        inputs = {"token_ids": ids, "padding_mask": mask}
        if task == "causal language model":
            inputs = {"token_ids": ids[:, :-1], "padding_mask": mask[:, :-1]}
            labels = labels[:, 1:]
        if task == "T5":
            shifted = np.pad(labels, [(0, 0), (1, 0)])[:, :-1]
            inputs = {
                "encoder_token_ids": ids,
                "encoder_padding_mask": mask,
                "decoder_token_ids": np.where(shifted < 0, 0, shifted),
                "decoder_padding_mask": labels >= 0,
            }
        model.reset_metrics()
        losses.append(model.train_on_batch(inputs, labels, return_dict=True)["loss"])
    return np.array(losses)


def both(task, dtype, steps, folder):
    import transformers

    family, kind, config, settings = TASKS[task]
    torch.manual_seed(7)
    labels = {"num_labels": 5} if task in ("classification", "tagging") else {}
    config = getattr(transformers, f"{family}Config")(**config, **labels)
    reference = getattr(transformers, family + kind)(config)
    reference = reference.to(getattr(torch, dtype)).train()
    for module in reference.modules():
        if type(module).__name__ == "T5LayerNorm":  # it computes in float32
            module.__class__ = torch.nn.RMSNorm
            module.eps, module.normalized_shape = T5_EPSILON, module.weight.shape
            module.elementwise_affine = True
    reference.save_pretrained(folder)
    keras.config.set_floatx(dtype)  # of losses and optimizers
    keras.config.set_dtype_policy(dtype)
    model = ka.from_pretrained(folder, **settings)
    ours = our_losses(task, model, steps)
    theirs = their_losses(task, reference, steps)
    assert theirs[-1] < 0.97 * theirs[0]  # it learns
    return ours, theirs


@pytest.mark.parametrize("task", TASKS)
def test_twenty_steps_in_float64_have_the_same_losses(task, tmp_path, record_property):
    ours, theirs = both(task, "float64", 20, tmp_path)
    worst = np.abs(ours - theirs).max()
    record_property("summary", f"{task}, 20 steps in float64: losses {worst:.1e} apart")
    assert worst <= 1e-9


@pytest.mark.parametrize("task", TASKS)
def test_fifty_steps_in_float32_have_the_same_losses(task, tmp_path, record_property):
    ours, theirs = both(task, "float32", 50, tmp_path)
    worst = np.abs(ours - theirs).max()
    record_property("summary", f"{task}, 50 steps in float32: losses {worst:.1e} apart")
    assert worst <= 1e-3
