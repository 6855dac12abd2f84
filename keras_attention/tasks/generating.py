"""What tasks that generate share: their prompts, the loop, and its results."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.generation.generate import Generated, new_tokens
from keras_attention.generation.settings import GenerationSettings
from keras_attention.generation.streaming import TextStream, text_of
from keras_attention.layers.base import observing
from keras_attention.models.inputs import standardize_ids
from keras_attention.models.recurrent_seq2seq import RecurrentSeq2Seq


def rows_of_ids(task: Any, given: Any, name: str) -> tuple[list[list[int]], bool]:
    """Returns lists of ids without padding, and whether they came from texts.

    Args:
        task: A task with a `tokenizer`.
        given: A list of texts, or of lists of token ids; or ids `[B, T]`, alone or in
            a dict with a `padding_mask`.
        name: The argument's name, for error messages.
    """
    if isinstance(given, str):
        raise ValueError(
            f"`{name}` must be a list of texts; wrap a single one in a list. "
            f"Received: {name}={given!r}"
        )
    from_text = isinstance(given, list | tuple) and any(
        isinstance(one, str) for one in given
    )
    if from_text:
        check_tokenizer(task, name)
        # A prompt that was truncated silently would have another meaning.
        given = getattr(task.tokenizer, "encode_whole", task.tokenizer)(given)
    if isinstance(given, list | tuple):
        return [[int(token) for token in row] for row in given], from_text
    if isinstance(given, dict):
        given = {n: given[n] for n in ("token_ids", "padding_mask") if n in given}
    inputs = standardize_ids(given, {"padding_mask": None})
    ids, padding_mask = (
        ops.convert_to_numpy(inputs["token_ids"]),
        inputs["padding_mask"],
    )
    if padding_mask is None:
        return ids.tolist(), from_text
    padding_mask = ops.convert_to_numpy(padding_mask)
    rows = [row[mask].tolist() for row, mask in zip(ids, padding_mask, strict=True)]
    return rows, from_text


def check_tokenizer(task: Any, name: str) -> None:
    """Refuses text if the task has no tokenizer.

    Args:
        task: A task with a `tokenizer`.
        name: The name of the argument that holds text.
    """
    if task.tokenizer is None:
        raise ValueError(
            f"Text in `{name}` needs a tokenizer: build the model with "
            "`tokenizer=`, or pass token ids. Received: tokenizer=None"
        )


def string_ends(task: Any, settings: GenerationSettings) -> Callable | None:
    """Returns a function that finds the rows that hold a stop string.

    It returns `None` if the settings have no `stop_strings`.

    Args:
        task: A task with a `tokenizer`.
        settings: The settings of the generation.
    """
    if not settings.stop_strings:
        return None
    check_tokenizer(task, "stop_strings")

    def ends(rows):
        texts = [text_of(task.tokenizer, ids) for ids in rows]
        found = [any(s in text for s in settings.stop_strings) for text in texts]
        return np.array(found)

    return ends


def generated(
    task: Any,
    prompts: list[list[int]],
    settings: GenerationSettings,
    *,
    callback: Callable[[list[np.ndarray]], Any] | None = None,
    verbose: bool = False,
    sources: list[list[int]] | None = None,
) -> Generated:
    """Generates from prompts, in steps if there is a callback or a progress bar.

    Args:
        task: A task with `generator` and `tokenizer`.
        prompts: The lists of token ids.
        settings: The settings of the generation.
        callback: A function that is called after each token with the new ids of each
            row.
        verbose: Whether to show a progress bar.
        sources: The encoder's input: one list of token ids per prompt.
    """
    more = {"sources": sources, "ends": string_ends(task, settings)}
    if callback is None and not verbose:
        return task.generator.generate(prompts, settings, **more)
    if settings.num_beams > 1:
        raise ValueError(
            "A callback and a progress bar work with single rows only: `num_beams` "
            f"must be 1. Received: num_beams={settings.num_beams}"
        )
    bar = keras.utils.Progbar(settings.max_new_tokens, verbose=int(verbose))
    state = None
    steps = task.generator.iterate(prompts, settings, **more)
    for number, state in enumerate(steps, 1):
        if callback is not None:
            callback(new_tokens(state.history))
        bar.update(number)
    assert state is not None
    return Generated.of(state)


def streamed(
    task: Any,
    prompt: list[int],
    settings: GenerationSettings,
    *,
    as_text: bool,
    source: list[int] | None = None,
) -> Iterator[Any]:
    """Yields the continuation of one prompt while it is generated.

    Args:
        task: A task with `generator` and `tokenizer`.
        prompt: The token ids.
        settings: The settings of the generation.
        as_text: Whether to yield texts instead of ids.
        source: The token ids for the encoder.
    """
    if settings.num_return_sequences > 1 or settings.num_beams > 1:
        raise ValueError(
            "`stream` yields one row while it is generated: `num_beams` and "
            "`num_return_sequences` must be 1. Received: "
            f"num_beams={settings.num_beams}, "
            f"num_return_sequences={settings.num_return_sequences}"
        )
    pieces = TextStream(task.tokenizer if as_text else None)
    steps = task.generator.iterate(
        [prompt],
        settings,
        ends=string_ends(task, settings),
        sources=None if source is None else [source],
    )
    for state in steps:
        yield from pieces.more(new_tokens(state.history)[0])
    yield from pieces.end()


def alignment_of(model: Any, inputs: dict[str, Any]) -> Any:
    """Returns the mean attention of targets to sources, `[B, T, S]`.

    Args:
        model: A `Seq2SeqLM`, which is called once.
        inputs: The inputs of a call, with the decoder's tokens shifted by one.
    """
    watched, observed = _cross_attentions(model.backbone), []
    with observing(lambda layer, weights: observed.append((layer, weights))):
        model(inputs, training=False)
    maps = [w for layer, w in observed if any(layer is one for one in watched)]
    maps = [ops.mean(w, axis=1) if len(w.shape) == 4 else w for w in maps]
    return sum(maps) / len(maps)


def _cross_attentions(backbone):
    if isinstance(backbone, RecurrentSeq2Seq):
        return [backbone.decoder.cell.attention]
    return [block.cross_attention for block in backbone.decoder_blocks]
