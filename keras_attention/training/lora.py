"""LoRA for whole models: few weights are trained, and the others stay as they are."""

import re
from collections.abc import Sequence

import keras

from keras_attention.layers.checks import check_sizes
from keras_attention.layers.states import backbone_of, freeze_all_but, projections
from keras_attention.untrusted import clip

TARGETS = ("query", "value")  # PEFT's for most families, and the paper's


def enable_lora(
    model: keras.Model,
    rank: int = 8,
    targets: str | Sequence[str] = TARGETS,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
) -> None:
    """Freezes a model, and adds matrices of low rank to projections, which are trained.

    Of a task only the new matrices and what is outside the backbone (the head) are
    trained. The outputs are the same as before the first step of training. Compile the
    model afterwards, or call `ka.fine_tune`, which does it. The base may be quantised
    (`model.quantize("int8")` or `"int4"`, before this call), as in QLoRA.

    A model with LoRA is saved as `.keras` and loaded like any other.
    `ka.save_pretrained` writes merged weights, `ka.save_adapter` only what was trained.

    Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021
    (arXiv:2106.09685); Dettmers et al., "QLoRA", 2023 (arXiv:2305.14314).

    Args:
        model: A backbone or a task of this library, or a model of its layers.
        rank: The rank of the matrices.
        targets: Regular expressions of the projections: one of them must match the end
            of the projection's path, whole names of layers. In attention layers the
            names are `"query"`, `"key"`, `"value"` and `"attention_output"`, in
            feed-forward networks `"intermediate"`, `"gate"` and `"output"`; `".*"`
            stands for all.
        alpha: The matrices' product is multiplied by `alpha / rank`; `rank` when
            `None`.
        dropout: The rate of dropout on the input of the matrices.

    Raises:
        ValueError: If no projection matches, or one has LoRA already; then nothing was
            changed.

    Example:
    >>> encoder = ka.BertEncoder(100, 2, 2, 16, 32)
    >>> ka.enable_lora(encoder, rank=2, targets=["query", "value", "feed_forward/.*"])
    >>> len(encoder.trainable_variables)
    16
    """
    check_sizes(rank=rank)
    patterns = [targets] if isinstance(targets, str) else list(targets)
    backbone = backbone_of(model)
    there = list(projections(backbone))
    found = [
        part
        for part in there
        if any(re.search(f"(^|/)({pattern})$", part.path) for pattern in patterns)
    ]
    if not found:
        names = sorted({part.path.rsplit("/", 1)[-1] for part in there})
        raise ValueError(
            "`targets` must match the end of the path of at least one projection. The "
            f"names of the projections are: {clip(', '.join(names), 500) or 'none'}. "
            f"Received: targets={patterns!r}"
        )
    for part in found:
        part.check_lora()
    scale = (rank if alpha is None else alpha) / rank
    for part in found:
        part.add_lora(rank, scale=scale, dropout=dropout)
    freeze_all_but(backbone, found)


def merge_lora(model: keras.Model) -> None:
    """Adds the matrices of `enable_lora` to the weights, and removes them.

    The outputs stay the same. What was frozen stays frozen: set `model.trainable` to
    train all weights.

    Args:
        model: A model after `enable_lora`.

    Raises:
        ValueError: If the model has no LoRA, or its base is quantised.

    Example:
    >>> encoder = ka.BertEncoder(100, 2, 2, 16, 32)
    >>> ka.enable_lora(encoder, rank=2)
    >>> ka.merge_lora(encoder)
    >>> len(encoder.trainable_variables)
    0
    """
    found = [part for part in projections(model) if part.lora is not None]
    if not found:
        raise ValueError(
            "There is no LoRA to merge: `ka.enable_lora` or `ka.load_adapter` adds it. "
            f"Received: model={model!r}"
        )
    for part in sorted(found, key=lambda part: not part.quantization_mode):
        part.merge_lora()  # a quantised one is refused before another has changed
