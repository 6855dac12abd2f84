"""Signatures that generate inside the artifact: from prompts to new text or ids.

The loops are those of `keras_attention.generation`, traced into the graph. Settings
that a request chooses are inputs whose first axis is the batch, so that a server can
batch requests; a row depends on its own inputs only.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import tensorflow as tf

from keras_attention.export.cases.generation import examples
from keras_attention.export.signatures.generation_controls import (
    CONTROLS,
    PerRowControls,
    check_answers,
    check_settings,
)
from keras_attention.export.signatures.signature import Signature, TensorInfo
from keras_attention.generation.beam import BeamSearch
from keras_attention.generation.history import history_of
from keras_attention.generation.loop import Loop, State, repeated
from keras_attention.generation.model import LanguageModel
from keras_attention.generation.noise import seeds_of_rows
from keras_attention.generation.settings import GenerationSettings
from keras_attention.models.recurrent_seq2seq import RecurrentSeq2Seq
from keras_attention.ops.caches.fixed import FixedKVCache
from keras_attention.ops.positions import EMPTY
from keras_attention.tasks.causal_lm import CausalLM, language_model
from keras_attention.tasks.generating import alignment_of
from keras_attention.tasks.seq2seq_lm import (
    Seq2SeqLM,
    language_model_of_pair,
)

_IDS = {
    "token_ids": TensorInfo("int32", ("batch", "sequence")),
    "padding_mask": TensorInfo("bool", ("batch", "sequence")),
}


def generation_signature(
    model: CausalLM | Seq2SeqLM,
    settings: GenerationSettings | None = None,
    *,
    name: str = "generate",
    from_text: bool | None = None,
    controls: bool | None = None,
    scores: bool = False,
    num_answers: int = 1,
    alignments: bool = False,
) -> Signature:
    """Returns a signature that generates, for `export_model(signatures=[…])`.

    It takes `text` and returns `generated_text`; or it takes `token_ids` and
    `padding_mask` and returns `generated_ids` `[B, N]` and `generated_mask`, which is
    possible in ONNX too, as one file. Inputs are prompts, or the sources of an encoder.
    Each row gets the tokens that `model.generate` returns for this prompt alone, with
    these settings and the same `seed`.

    Args:
        model: The model that generates, a `CausalLM` or a `Seq2SeqLM`.
        settings: The settings that are fixed at export: penalties, beams, tokens that
            end a row. Functions on the host and `stop_strings` cannot be in a graph.
            When `None` they are the defaults of `GenerationSettings`, not the model's.
        name: The signature's name.
        from_text: Whether prompts are texts. By default they are if the model has a
            tokenizer.
        controls: Whether `max_new_tokens`, `temperature`, `top_k`, `top_p` and
            `seed` are inputs, `[B]` each; otherwise `settings` fixes them. By default
            they are inputs, except for beam search, whose beams have one length.
        scores: Whether to return what `generate(return_details=True)` returns too:
            `scores` `[B]` of the best beams, or without beams `log_probabilities`
            `[B, N]` of the new tokens (with text, these tokens too).
        num_answers: The number of beams that are returned for each prompt, the best
            first, on a second axis of all outputs; up to `num_beams`.
        alignments: For a `Seq2SeqLM`, whether to return `alignments` `[B, N, S]`, the
            weights of `model.align` between the new tokens and those of the source
            (with text, the ids and masks of both too: `generated_ids`,
            `generated_mask`, `source_ids` and `source_mask`).

    Raises:
        ValueError: If the settings need something that a graph cannot do.

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
    check_settings(settings, text, free, model.tokenizer)
    check_answers(model, settings, num_answers, alignments)
    settings = replace(settings, num_return_sequences=num_answers)
    served = _Served(model, settings, text, free, scores, alignments)
    vocabulary_size = model.backbone.vocabulary_size
    inputs = {"text": TensorInfo("string", ("batch",))} if text else dict(_IDS)
    outputs = _outputs(served)
    return Signature(
        name,
        served,
        inputs | (CONTROLS if free else {}),
        outputs,
        limits={} if text else {"token_ids": vocabulary_size},
        formats=_formats(model),
        examples=lambda: examples(
            model, settings, from_text=text, controls=free, outputs=[*outputs]
        ),
    )


def _outputs(served: "_Served") -> dict[str, TensorInfo]:
    """The outputs of a signature, by what it returns besides the new tokens."""
    count = served.settings.num_return_sequences
    rows = ("batch",) if count == 1 else ("batch", count)
    beams = served.settings.num_beams > 1
    found = {}
    if served.from_text:
        found["generated_text"] = TensorInfo("string", rows)
    if served.returns_tokens:
        found["generated_ids"] = TensorInfo("int32", (*rows, "new"))
        found["generated_mask"] = TensorInfo("bool", (*rows, "new"))
    if served.scores and beams:
        found["scores"] = TensorInfo("float32", rows)
    elif served.scores:
        found["log_probabilities"] = TensorInfo("float32", (*rows, "new"))
    if served.alignments:
        found["alignments"] = TensorInfo("float32", ("batch", "new", "sequence"))
        if served.from_text:
            found["source_ids"] = TensorInfo("int32", ("batch", "sequence"))
            found["source_mask"] = TensorInfo("bool", ("batch", "sequence"))
    return found


def _formats(model):
    backbone = model.backbone
    if isinstance(backbone, RecurrentSeq2Seq):
        # tf2onnx loses the shapes of states that a loop carries.
        return ("saved_model",)
    return ("saved_model", "onnx")


class _Found(NamedTuple):
    """What a search found: `[R, L]` tokens, lengths `[R]`, and how likely they are.

    There are R rows, `num_return_sequences` in succession for each prompt. `scores` is
    `[R]` for beams and `[R, L]`, the log-probabilities of the tokens, without.
    """

    token_ids: Any
    lengths: Any
    scores: Any
    broken: Any


@dataclass(frozen=True)
class _Served:
    """The function of a signature that generates.

    Attributes:
        model: The task model.
        settings: The settings that are fixed at export.
        from_text: Whether prompts are texts.
        controls: Whether the `CONTROLS` are inputs.
        scores: Whether the scores of beams, or of tokens, are outputs.
        alignments: Whether the weights between target and source are outputs.
    """

    model: CausalLM | Seq2SeqLM
    settings: GenerationSettings
    from_text: bool
    controls: bool
    scores: bool = False
    alignments: bool = False

    @property
    def returns_tokens(self) -> bool:
        """Whether ids are outputs; numbers of tokens say nothing without them."""
        of_tokens = self.scores and self.settings.num_beams == 1
        return not self.from_text or of_tokens or self.alignments

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        if self.from_text:
            tokenizer = self.model.tokenizer
            # A prompt that is too long is an error: it must not be truncated.
            encode = getattr(tokenizer, "encode_whole", tokenizer)
            inputs |= encode(inputs.pop("text"))
        padding_mask = tf.convert_to_tensor(inputs["padding_mask"])
        given = {name: tf.convert_to_tensor(inputs[name]) for name in self._controls()}
        limit = given.get("max_new_tokens", self.settings.max_new_tokens)
        with tf.control_dependencies(list(self._checks(padding_mask, limit, given))):
            ids = tf.cast(tf.identity(inputs["token_ids"]), tf.int32)
        source, prompts = None, (ids, padding_mask)
        before = tf.maximum(tf.shape(ids)[1] - 1, 1)
        if isinstance(self.model, Seq2SeqLM):
            first = tf.fill((tf.shape(ids)[0], 1), self.model.start_token_id)
            source, prompts, before = prompts, (first, first >= 0), 0
        history = history_of(*prompts, max_new_tokens=limit)
        more = tf.zeros((tf.shape(ids)[0], tf.reduce_max(limit)), tf.int32)
        history = history._replace(token_ids=tf.concat([history.token_ids, more], 1))
        search = self._beams if self.settings.num_beams > 1 else self._rows
        found = search(
            history,
            given,
            lambda loop: loop.prefill(history, tf.zeros((before,)), source),
        )
        message = "The logits of the model were NaN: no token can be chosen. Received:"
        with tf.control_dependencies(
            [_assert(~tf.reduce_any(found.broken), message, found.broken)]
        ):
            found = found._replace(lengths=tf.identity(found.lengths))
        return self._answers(found, history.prompt_lengths, source)

    def _answers(self, found: _Found, prompt_lengths: Any, source: Any) -> dict:
        """Returns the outputs, with an axis for the answers if there are several."""
        count = self.settings.num_return_sequences
        begins = tf.repeat(prompt_lengths, count)[:, None]  # [R, 1]
        lengths = found.lengths - begins[:, 0]
        columns = tf.range(tf.reduce_max(lengths))[None]
        mask = columns < lengths[:, None]  # [R, N]
        at = begins + tf.where(mask, columns, 0)
        new = tf.where(mask, tf.gather(found.token_ids, at, batch_dims=1), 0)
        outputs = {}
        if self.from_text:
            rows = tf.RaggedTensor.from_tensor(new, lengths)
            outputs["generated_text"] = self.model.tokenizer.detokenize(rows)
        if self.returns_tokens:
            outputs |= {"generated_ids": new, "generated_mask": mask}
        if self.scores and self.settings.num_beams > 1:
            outputs["scores"] = found.scores
        elif self.scores:
            chances = tf.gather(found.scores, at, batch_dims=1)
            outputs["log_probabilities"] = tf.where(mask, chances, 0.0)
        if count > 1:
            outputs = {
                name: tf.reshape(x, tf.concat([[-1, count], tf.shape(x)[1:]], 0))
                for name, x in outputs.items()
            }
        if self.alignments:
            outputs |= self._alignments(new, mask, source)
        return outputs

    def _alignments(self, new, mask, source):
        assert isinstance(self.model, Seq2SeqLM)
        source_ids, source_mask = source
        start = tf.fill((tf.shape(new)[0], 1), self.model.start_token_id)
        inputs = {
            "encoder_token_ids": source_ids,
            "encoder_padding_mask": source_mask,
            "decoder_token_ids": tf.concat([start, new[:, :-1]], axis=1),
            "decoder_padding_mask": mask,
        }
        weights = alignment_of(self.model, inputs)
        weights = tf.where(mask[..., None], tf.cast(weights, tf.float32), 0.0)
        found = {"alignments": weights}
        if self.from_text:
            found["source_ids"] = tf.where(source_mask, source_ids, 0)
            found["source_mask"] = source_mask
        return found

    def _controls(self):
        return CONTROLS if self.controls else {}

    def _checks(self, padding_mask, limit, given):
        """Yields the checks of prompts and settings that `generate` makes too."""
        counts = tf.reduce_sum(tf.cast(padding_mask, tf.int32), axis=-1)
        message = "Each prompt must have at least one token. Received counts:"
        yield _assert(tf.reduce_all(counts > 0), message, counts)
        longest = self._language_model.max_sequence_length
        # The last new token is never read, so it needs no position.
        if longest is not None and isinstance(self.model, Seq2SeqLM):
            message = f"Encoder and decoder have {longest} positions. Received tokens:"
            fits = (counts <= longest) & (limit <= longest)
            yield _assert(tf.reduce_all(fits), message, counts)
        elif longest is not None:
            message = (
                f"The model has {longest} positions, too few for a prompt and "
                "max_new_tokens: shorten the prompt or generate less. Received tokens:"
            )
            fits = counts + limit - 1 <= longest
            yield _assert(tf.reduce_all(fits), message, counts)
        if not given:
            return
        for name, expected, is_met in (
            ("max_new_tokens", "1 or more", given["max_new_tokens"] >= 1),
            ("temperature", "0 or more", given["temperature"] >= 0),
            ("top_k", "0 or more", given["top_k"] >= 0),
            ("top_p", "from 0 to 1", (given["top_p"] >= 0) & (given["top_p"] <= 1)),
        ):
            message = f"{name} must be {expected}. Received:"
            yield _assert(tf.reduce_all(is_met), message, given[name])

    def _start(self, history, cache):
        batch, capacity = tf.unstack(tf.shape(history.token_ids))
        none = tf.zeros((batch,), tf.bool)
        return State(
            cache=cache,
            history=history,
            log_probabilities=tf.zeros((batch, capacity)),
            finished=none,
            broken=none,
            seeds=tf.zeros((batch,), tf.int32),
        )

    def _rows(self, history, given, prefill):
        """Runs the loop over one row per prompt."""
        processors = self.settings.make_processors(self._ends())
        if given:
            names = ("temperature", "top_k", "top_p")
            processors.append(PerRowControls(*(given[name] for name in names)))
        do_sample = bool(given) or self.settings.do_sample
        loop = self._search(Loop, processors, do_sample=do_sample)
        seed = given.get("seed", self.settings.seed)
        seeds = seeds_of_rows(seed, 1) + tf.zeros_like(history.lengths)
        state = self._start(history, prefill(loop))._replace(seeds=seeds)
        state = loop.steps(state, tf.reduce_max(history.max_new_tokens))
        history = state.history
        chances = state.log_probabilities
        return _Found(history.token_ids, history.lengths, chances, state.broken)

    def _beams(self, history, given, prefill):
        """Runs beam search; returns the best beams of each prompt."""
        settings = self.settings
        processors = settings.make_processors(self._ends())
        search = self._search(
            BeamSearch,
            processors,
            num_beams=settings.num_beams,
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
        )
        start = self._start(history, prefill(self._search(Loop, processors)))
        beams = search.start(repeated(start, settings.num_beams))
        beams = search.steps(beams, tf.constant(settings.max_new_tokens))
        count = settings.num_return_sequences
        ids = beams.token_ids[:, :count]
        ids = tf.reshape(ids, (-1, tf.shape(ids)[2]))
        lengths, scores = (
            tf.reshape(x[:, :count], (-1,)) for x in (beams.lengths, beams.scores)
        )
        return _Found(ids, lengths, scores, beams.broken)

    def _search(self, kind, processors, **settings):
        """Builds a `Loop` or `BeamSearch` over the model."""
        common = {"stop_token_ids": self._ends(), "compiled": False}
        return kind(self._language_model, processors, **common, **settings)

    @functools.cached_property
    def _language_model(self) -> LanguageModel:
        if isinstance(self.model, Seq2SeqLM):
            return language_model_of_pair(self.model.backbone, _GraphCache)
        return language_model(self.model.decoder, _GraphCache)

    def _ends(self):
        return [int(token) for token in self.settings.stop_token_ids or ()]


class _GraphCache:
    """Makes `FixedKVCache`s of a capacity that is known only when the graph runs."""

    @staticmethod
    def empty(*, batch_size, key_size, value_size, capacity, dtype, num_heads):
        """Makes a cache without tokens; `num_heads` is not needed here."""
        del num_heads
        keys = tf.zeros((batch_size, capacity, key_size), dtype)
        values = tf.zeros((batch_size, capacity, value_size), dtype)
        return FixedKVCache(keys, values, tf.fill((batch_size, capacity), EMPTY))


def _assert(condition: Any, message: str, values: Any) -> Any:
    return tf.debugging.Assert(condition, [message, values])
