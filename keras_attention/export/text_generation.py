"""Generation inside the artefact: prompts in, new text or new ids out.

The loops are those of `keras_attention.generation`, traced into the graph. What a
request chooses are inputs with the batch first, so that a server can put requests
together; a row depends on nothing but its own inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attention.export.cases import TEXTS
from keras_attention.export.signatures import Signature, TensorInfo
from keras_attention.generation.beam import BeamSearch
from keras_attention.generation.filters import Temperature, TopK, TopP
from keras_attention.generation.generate import Generator
from keras_attention.generation.history import History, history_of
from keras_attention.generation.loop import Loop, State, repeated
from keras_attention.generation.noise import seeds_of_rows
from keras_attention.generation.settings import GenerationSettings
from keras_attention.generation.streaming import text_of
from keras_attention.ops.attend import BLOCKED
from keras_attention.ops.cache_fixed import FixedKVCache
from keras_attention.ops.positions import EMPTY
from keras_attention.tasks._generating import rows_of_ids
from keras_attention.tasks.causal_lm import CausalLM, language_model

CONTROLS = {
    "max_new_tokens": TensorInfo("int32", ("batch",)),
    "temperature": TensorInfo("float32", ("batch",)),
    "top_k": TensorInfo("int32", ("batch",)),
    "top_p": TensorInfo("float32", ("batch",)),
    "seed": TensorInfo("int32", ("batch",)),
}
"""What a request chooses; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing."""

_IDS = {
    "token_ids": TensorInfo("int32", ("batch", "sequence")),
    "padding_mask": TensorInfo("bool", ("batch", "sequence")),
}


def generation_signature(
    model: CausalLM,
    settings: GenerationSettings | None = None,
    *,
    name: str = "generate",
    from_text: bool | None = None,
    controls: bool | None = None,
) -> Signature:
    """Generation as a signature, for `export_model(signatures=[…])`.

    From `text` it gives `generated_text`; from `token_ids` and `padding_mask`, also as
    one ONNX file, `generated_ids` `[B, N]` and `generated_mask`. The tokens are those
    of `model.generate`, row by row: a row's `seed` draws what it draws for that prompt
    alone.

    Args:
        model: Which generates.
        settings: What is fixed: penalties, beams, what ends a row. Functions on the
            host and `stop_strings` cannot be part of a graph.
        name: Of the signature.
        from_text: Whether prompts are texts; by default if there is a tokenizer.
        controls: Whether `max_new_tokens`, `temperature`, `top_k`, `top_p` and
            `seed` are inputs, `[B]` each; else the settings fix them. By default
            unless beams are searched, which share a length.

    Raises:
        ValueError: If the settings ask for what a graph cannot do.

    Example:
    >>> sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    >>> decoder = ka.GPTDecoder(vocabulary_size=11, intermediate_dim=16, **sizes)
    >>> signature = ka.generation_signature(ka.CausalLM(decoder, compiled=False))
    >>> [*signature.inputs][:3]
    ['token_ids', 'padding_mask', 'max_new_tokens']
    >>> [*signature.outputs]
    ['generated_ids', 'generated_mask']
    """
    settings = model._settings(settings or GenerationSettings(), None)
    text = model.tokenizer is not None if from_text is None else from_text
    free = settings.num_beams == 1 if controls is None else controls
    _check(settings, text, free, model.tokenizer)
    served = _Served(model, settings, text, free)
    inputs = {"text": TensorInfo("string", ("batch",))} if text else dict(_IDS)
    outputs = {"generated_text": TensorInfo("string", ("batch",))}
    if not text:
        outputs = {
            "generated_ids": TensorInfo("int32", ("batch", "new")),
            "generated_mask": TensorInfo("bool", ("batch", "new")),
        }
    return Signature(
        name,
        served,
        inputs | (CONTROLS if free else {}),
        outputs,
        limits={} if text else {"token_ids": model.decoder.vocabulary_size},
        formats=("saved_model", "onnx"),
        examples=served.examples,
    )


def _check(settings, from_text, controls, tokenizer):
    if from_text and tokenizer is None:
        raise ValueError(
            "Prompts of text need a tokenizer: build the model with `tokenizer=`, or "
            "pass `from_text=False`. Received: tokenizer=None"
        )
    on_host = settings.allowed_tokens is not None or settings.stop_strings
    if on_host or settings.num_return_sequences > 1:
        raise ValueError(
            "A graph ends rows by tokens, runs no Python and gives one row a prompt: "
            "`stop_strings`, `allowed_tokens` and `num_return_sequences` must be left "
            f"alone. Received: settings={settings}"
        )
    if controls and (settings.do_sample or settings.num_beams > 1):
        raise ValueError(
            "With `controls`, each request says how tokens are drawn, and none can "
            "search beams: leave `do_sample` and `num_beams` alone, or pass "
            f"`controls=False`. Received: settings={settings}"
        )


@dataclass(frozen=True)
class _ByRow:
    """Temperature, top-k and top-p of each row, `[B]`; temperature 0 is greedy."""

    temperature: Any
    top_k: Any
    top_p: Any

    def __call__(self, history: History, logits: Any) -> Any:
        size = logits.shape[-1]
        greedy = self.temperature == 0

        def best():
            first = tf.argmax(logits, axis=-1)[:, None]
            return tf.where(tf.range(size, dtype=first.dtype) == first, 0.0, BLOCKED)

        def drawn():
            k = tf.where(self.top_k == 0, size, self.top_k)
            changed = Temperature(tf.where(greedy, 1.0, self.temperature))(
                history, logits
            )
            changed = TopK(k)(history, changed)
            cut = TopP(self.top_p)(history, changed)
            cut = tf.where(self.top_p[:, None] < 1, cut, changed)
            return tf.where(greedy[:, None], best(), cut)

        return tf.cond(tf.reduce_all(greedy), best, drawn)


@dataclass(frozen=True)
class _Served:
    """The function of a signature.

    Attributes:
        model: The `CausalLM`.
        settings: What is fixed.
        from_text: Whether prompts are texts.
        controls: Whether the `CONTROLS` are inputs.
    """

    model: CausalLM
    settings: GenerationSettings
    from_text: bool
    controls: bool

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        if self.from_text:
            tokenizer = self.model.tokenizer
            encode = getattr(tokenizer, "encode_whole", tokenizer)  # never cut
            inputs |= encode(inputs.pop("text"))
        keep = tf.convert_to_tensor(inputs["padding_mask"])
        given = {name: tf.convert_to_tensor(inputs[name]) for name in self._controls()}
        limit = given.get("max_new_tokens", self.settings.max_new_tokens)
        with tf.control_dependencies(list(self._checks(keep, limit, given))):
            ids = tf.cast(tf.identity(inputs["token_ids"]), tf.int32)
        history = history_of(ids, keep, max_new_tokens=limit)
        more = tf.zeros((tf.shape(ids)[0], tf.reduce_max(limit)), tf.int32)
        history = history._replace(token_ids=tf.concat([history.token_ids, more], 1))
        width = tf.zeros((tf.maximum(tf.shape(ids)[1] - 1, 1),))
        search = self._beams if self.settings.num_beams > 1 else self._rows
        token_ids, lengths, broken = search(history, width, given)
        message = "The logits of the model were NaN: no token can be chosen. Received:"
        with tf.control_dependencies(
            [_assert(~tf.reduce_any(broken), message, broken)]
        ):
            lengths = tf.identity(lengths) - history.prompt_lengths
        columns = tf.range(tf.reduce_max(lengths))[None]
        mask = columns < lengths[:, None]  # [B, N]
        at = history.prompt_lengths[:, None] + tf.where(mask, columns, 0)
        new = tf.where(mask, tf.gather(token_ids, at, batch_dims=1), 0)
        if not self.from_text:
            return {"generated_ids": new, "generated_mask": mask}
        rows = tf.RaggedTensor.from_tensor(new, lengths)
        return {"generated_text": self.model.tokenizer.detokenize(rows)}

    def _controls(self):
        return CONTROLS if self.controls else {}

    def _checks(self, keep, limit, given):
        """The assertions that `generate` makes of prompts and settings."""
        counts = tf.reduce_sum(tf.cast(keep, tf.int32), axis=-1)
        message = "Each prompt must have at least one token. Received counts:"
        yield _assert(tf.reduce_all(counts > 0), message, counts)
        longest = self.model.decoder.max_sequence_length
        if longest is not None:
            message = (
                f"The model has {longest} positions, too few for a prompt and "
                "max_new_tokens: shorten the prompt or generate less. Received tokens:"
            )
            yield _assert(tf.reduce_all(counts + limit <= longest), message, counts)
        if not given:
            return
        for name, words, fulfilled in (
            ("max_new_tokens", "1 or more", given["max_new_tokens"] >= 1),
            ("temperature", "0 or more", given["temperature"] >= 0),
            ("top_k", "0 or more", given["top_k"] >= 0),
            ("top_p", "from 0 to 1", (given["top_p"] >= 0) & (given["top_p"] <= 1)),
        ):
            message = f"{name} must be {words}. Received:"
            yield _assert(tf.reduce_all(fulfilled), message, given[name])

    def _start(self, loop, history, width):
        batch, capacity = tf.unstack(tf.shape(history.token_ids))
        none = tf.zeros((batch,), tf.bool)
        return State(
            cache=loop.prefill(history, width),
            history=history,
            log_probabilities=tf.zeros((batch, capacity)),
            finished=none,
            broken=none,
            seeds=tf.zeros((batch,), tf.int32),
        )

    def _rows(self, history, width, given):
        """Tokens, lengths and whether a row's logits were NaN, by the loop."""
        processors = self.settings.make_processors(self._ends())
        if given:
            names = ("temperature", "top_k", "top_p")
            processors.append(_ByRow(*(given[name] for name in names)))
        do_sample = bool(given) or self.settings.do_sample
        loop = self._made(Loop, processors, do_sample=do_sample)
        seed = given.get("seed", self.settings.seed)
        seeds = seeds_of_rows(seed, 1) + tf.zeros_like(history.lengths)
        state = self._start(loop, history, width)._replace(seeds=seeds)
        state = loop.steps(state, tf.reduce_max(history.max_new_tokens))
        return state.history.token_ids, state.history.lengths, state.broken

    def _beams(self, history, width, given):
        """The same, of the best of the beams."""
        settings = self.settings
        processors = settings.make_processors(self._ends())
        search = self._made(
            BeamSearch,
            processors,
            num_beams=settings.num_beams,
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
        )
        start = self._start(self._made(Loop, processors), history, width)
        beams = search.start(repeated(start, settings.num_beams))
        beams = search.steps(beams, tf.constant(settings.max_new_tokens))
        return beams.token_ids[:, 0], beams.lengths[:, 0], beams.broken

    def _made(self, kind, processors, **settings):
        model = language_model(self.model.decoder)._replace(empty_cache=self._empty)
        common = {"stop_token_ids": self._ends(), "compiled": False}
        return kind(model, processors, **common, **settings)

    def _ends(self):
        return [int(token) for token in self.settings.stop_token_ids or ()]

    def _empty(self, batch_size, capacity):
        """Caches of a capacity that is known only when the graph runs."""
        decoder = self.model.decoder
        size = decoder.num_key_value_heads * decoder.key_dim
        store = tf.zeros((batch_size, capacity, size), decoder.compute_dtype)
        positions = tf.fill((batch_size, capacity), EMPTY)
        return [FixedKVCache(store, store, positions) for _ in decoder.blocks]

    def examples(self) -> Iterator[tuple[str, dict, dict]]:
        """Prompts, and what `generate` says of each alone, outside of any graph."""
        longest = self.model.decoder.max_sequence_length or 64
        new = max(1, min(8, longest // 3))
        if not self.controls:
            new = self.settings.max_new_tokens
        generator = Generator(language_model(self.model.decoder), compiled=False)
        for name, batch in self._prompts(longest - new):
            size = len(batch)
            for mode, choose in (
                _MODES.items() if self.controls else {"fixed": None}.items()
            ):
                chosen = choose(size, new) if choose is not None else {}
                rows = [
                    generator.generate([ids], self._settings_of(chosen, row))
                    for row, ids in enumerate(self._ids(batch))
                ]
                found = [row.token_ids[0] for row in rows]
                inputs = {"text": batch} if self.from_text else _padded(batch)
                yield f"{name}, {mode}", inputs | chosen, self._answer(found)

    def _prompts(self, longest):
        if not self.from_text:
            rng = np.random.default_rng(0)
            size = self.model.decoder.vocabulary_size
            for lengths in ([1], [5], [2, 7, 4]):
                rows = [rng.integers(0, size, min(n, longest)) for n in lengths]
                yield f"prompts of {lengths} tokens", rows
            return
        for name, texts in list(TEXTS.items())[:3]:
            yield name, [self._cut(text, longest) for text in texts if text]

    def _cut(self, text, longest):
        while len(self._ids([text])[0]) > longest:
            text = text[: len(text) // 2]
        return text

    def _ids(self, batch):
        return rows_of_ids(self.model, list(batch), "prompts")[0]

    def _settings_of(self, chosen, row):
        if not chosen:
            return self.settings
        of_row = {name: values[row].item() for name, values in chosen.items()}
        limit, seed = of_row["max_new_tokens"], of_row["seed"]
        settings = replace(self.settings, max_new_tokens=limit, seed=seed)
        if of_row["temperature"] == 0:
            return settings
        return replace(
            settings,
            do_sample=True,
            temperature=of_row["temperature"],
            top_k=of_row["top_k"] or None,
            top_p=None if of_row["top_p"] == 1 else of_row["top_p"],
        )

    def _answer(self, found):
        if self.from_text:
            texts = [text_of(self.model.tokenizer, ids) for ids in found]
            return {"generated_text": np.array(texts, object)}
        ids = _padded(found)
        names = ("generated_ids", "generated_mask")
        return dict(zip(names, ids.values(), strict=True))


def _padded(rows):
    width = max(map(len, rows))
    ids, keep = (
        np.zeros((len(rows), width), "int32"),
        np.zeros((len(rows), width), bool),
    )
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], keep[row, : len(tokens)] = tokens, True
    return {"token_ids": ids, "padding_mask": keep}


def _controls(size: int, new: int, temperature: Any, top_k: Any, top_p: Any) -> dict:
    rows = np.arange(size)
    return {
        "max_new_tokens": np.maximum(new - 2 * rows, 1).astype("int32"),
        "temperature": np.resize(temperature, size).astype("float32"),
        "top_k": np.resize(top_k, size).astype("int32"),
        "top_p": np.resize(top_p, size).astype("float32"),
        "seed": (rows * 7919 + 5).astype("int32"),
    }


_MODES: dict[str, Callable[[int, int], dict]] = {
    "greedy": lambda size, new: _controls(size, new, [0.0], [0], [1.0]),
    "drawn": lambda size, new: _controls(
        size, new, [0.75, 0.0, 1.5], [7, 0, 0], [0.875, 1.0, 0.5]
    ),
}


def _assert(condition: Any, message: str, values: Any) -> Any:
    return tf.debugging.Assert(condition, [message, values])
