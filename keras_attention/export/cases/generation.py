"""Cases for generation in an artifact: prompts, and what the task generates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_attention.export.cases.grid import TEXTS
from keras_attention.generation.generate import Generator
from keras_attention.generation.settings import GenerationSettings
from keras_attention.generation.streaming import text_of
from keras_attention.tasks.causal_lm import CausalLM, language_model
from keras_attention.tasks.generating import rows_of_ids
from keras_attention.tasks.seq2seq_lm import Seq2SeqLM, language_model_of_pair


def examples(
    model: CausalLM | Seq2SeqLM,
    settings: GenerationSettings,
    *,
    from_text: bool,
    controls: bool,
    outputs: Sequence[str] = ("generated_ids", "generated_mask"),
) -> Iterator[tuple[str, dict, dict]]:
    """Yields prompts or sources, and what `generate` returns for each row alone.

    The expected tokens are generated without a graph.

    Args:
        model: The model that generates.
        settings: The settings that are fixed at export.
        from_text: Whether prompts are texts.
        controls: Whether each row has settings of its own.
        outputs: The names of the outputs of the signature.

    Yields:
        `(name, inputs, expected outputs)`.
    """
    generate = _generate_one(model)
    longest = model.backbone.max_sequence_length or 64
    new = max(1, min(8, longest // 3)) if controls else settings.max_new_tokens
    # The last new token is never read, so it needs no position.
    for name, batch in _prompts(model, longest - new + 1, from_text):
        modes: dict[str, Any] = dict(_MODES) if controls else {"fixed": None}
        for mode, choose in modes.items():
            chosen = choose(len(batch), new) if choose is not None else {}
            found = [
                generate(ids, _settings_of(settings, chosen, row))
                for row, ids in enumerate(_ids(model, batch))
            ]
            inputs = {"text": batch} if from_text else _padded(batch)
            expected = _outputs(model, batch, found, settings.num_return_sequences)
            kept = {each: expected[each] for each in outputs if each in expected}
            if "alignments" in outputs:
                kept |= _alignments(model, batch, found, from_text)
            yield f"{name}, {mode}", inputs | chosen, kept


def _generate_one(model):
    """Returns a function that returns the `Generated` of one prompt or source."""
    if isinstance(model, Seq2SeqLM):
        pair = Generator(language_model_of_pair(model.backbone), compiled=False)
        start = [[model.start_token_id]]
        return lambda ids, settings: pair.generate(start, settings, sources=[ids])
    generator = Generator(language_model(model.decoder), compiled=False)
    return lambda ids, settings: generator.generate([ids], settings)


def _prompts(model, longest, from_text):
    if not from_text:
        rng = np.random.default_rng(0)
        size = model.backbone.vocabulary_size
        for lengths in ([1], [5], [2, 7, 4]):
            rows = [rng.integers(0, size, min(n, longest)) for n in lengths]
            yield f"prompts of {lengths} tokens", rows
        return
    for name, texts in list(TEXTS.items())[:3]:
        yield name, [_cut(model, text, longest) for text in texts if text]


def _cut(model, text, longest):
    while len(_ids(model, [text])[0]) > longest:
        text = text[: len(text) // 2]
    return text


def _ids(model, batch):
    return rows_of_ids(model, list(batch), "prompts")[0]


def _settings_of(settings, chosen, row):
    if not chosen:
        return settings
    own = {name: values[row].item() for name, values in chosen.items()}
    limit, seed = own["max_new_tokens"], own["seed"]
    settings = replace(settings, max_new_tokens=limit, seed=seed)
    if own["temperature"] == 0:
        return settings
    return replace(
        settings,
        do_sample=True,
        temperature=own["temperature"],
        top_k=own["top_k"] or None,
        top_p=None if own["top_p"] == 1 else own["top_p"],
    )


def _outputs(model, batch, found, count):
    """The outputs that there may be, of one `Generated` per prompt."""
    rows = [ids for one in found for ids in one.token_ids]
    names = ("generated_ids", "generated_mask")
    outputs: dict[str, Any] = dict(zip(names, _padded(rows).values(), strict=True))
    if model.tokenizer is not None:
        texts = [text_of(model.tokenizer, ids) for ids in rows]
        outputs["generated_text"] = np.array(texts, object)
    if found[0].scores is not None:
        outputs["scores"] = np.concatenate([one.scores for one in found])
    else:
        chances = np.zeros(outputs["generated_ids"].shape, "float32")
        for row, values in zip(chances, found, strict=True):
            row[: len(values.token_ids[0])] = values.log_probabilities[0]
        outputs["log_probabilities"] = chances
    if count == 1:
        return outputs
    return {k: x.reshape(len(batch), count, *x.shape[1:]) for k, x in outputs.items()}


def _alignments(model, batch, found, from_text):
    """The weights of `align` between the new tokens and those of the source."""
    sources = [np.asarray(ids) for ids in _ids(model, batch)]
    targets = [one.token_ids[0] for one in found]
    width = max(map(len, sources))
    weights = np.zeros((len(batch), max(map(len, targets)), width), "float32")
    for row, source, target in zip(weights, sources, targets, strict=True):
        (aligned,) = model.align([source.tolist()], [target.tolist()])
        row[: len(target), : len(source)] = aligned
    outputs: dict[str, Any] = {"alignments": weights}
    if from_text:
        padded = _padded(sources)
        outputs["source_ids"] = padded["token_ids"]
        outputs["source_mask"] = padded["padding_mask"]
    return outputs


def _padded(rows):
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), "int32")
    padding_mask = np.zeros((len(rows), width), bool)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], padding_mask[row, : len(tokens)] = tokens, True
    return {"token_ids": ids, "padding_mask": padding_mask}


def _controls(size: int, new: int, temperature: Any, top_k: Any, top_p: Any) -> dict:
    rows = np.arange(size)
    return {
        "max_new_tokens": np.maximum(new - 2 * rows, 1).astype("int32"),
        "temperature": np.resize(temperature, size).astype("float32"),
        "top_k": np.resize(top_k, size).astype("int32"),
        "top_p": np.resize(top_p, size).astype("float32"),
        "seed": (rows * 7919 + 5).astype("int32"),
    }


# How the rows of a case are generated: a function of (rows, new tokens).
_MODES: dict[str, Callable[[int, int], dict]] = {
    "greedy": lambda size, new: _controls(size, new, [0.0], [0], [1.0]),
    "sampled": lambda size, new: _controls(
        size, new, [0.75, 0.0, 1.5], [7, 0, 0], [0.875, 1.0, 0.5]
    ),
}
