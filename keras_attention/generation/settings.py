"""The settings of generation, as one value that is checked when it is created."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_attention.generation import processors as p


@dataclass(frozen=True)
class GenerationSettings:
    """All settings of `generate`, with the same meaning as in Hugging Face.

    Processors are applied in this order: `logit_bias`, the three penalties,
    `no_repeat_ngram_size`, `bad_words`, `min_new_tokens`, the allowed tokens, the
    forced ones, `suppress_tokens`, `processors`; then, for sampling, `temperature`,
    `top_k`, `top_p`, `min_p`, `typical_p`.

    Args:
        max_new_tokens: The number of tokens after which a row ends.
        min_new_tokens: The number of tokens before which a row does not end.
        do_sample: Whether to draw tokens.
        temperature: The number by which logits are divided.
        top_k: The number of most likely tokens from which one is drawn.
        top_p: The total probability of the most likely tokens from which one is drawn.
        min_p: The smallest probability of a drawn token, as a share of the largest.
        typical_p: The total probability of the tokens of locally typical sampling.
        repetition_penalty: The factor against tokens of the row, with the prompt; 1 for
            none.
        presence_penalty: The number subtracted from the logits of generated tokens.
        frequency_penalty: The number subtracted for each time a token was generated.
        no_repeat_ngram_size: The size of n-grams that must not be repeated; 0 for none.
        bad_words: Sequences of token ids that must not occur.
        suppress_tokens: Token ids that must not occur.
        logit_bias: A dict of a token id, or a tuple of them, to the number added to its
            logit.
        forced_first_token: The id of the first new token, or `None`.
        forced_last_token: The id of the last token of a row that reaches
            `max_new_tokens`, or `None`.
        allowed_sequences: Sequences of token ids, one of which must follow the prompt.
        allowed_tokens: A function of a row's index and the list of its token ids; it
            returns the ids of which one must follow.
        processors: Further functions of `(history, logits)`; see `ka.processors`.
        stop_token_ids: The tokens that end a row; `None` for the tokenizer's end token.
        stop_strings: Texts that end a row; they are part of the answer.
        num_return_sequences: The number of rows for each prompt.
        num_beams: The number of beams; 1 for no beam search.
        num_beam_groups: The number of groups of beams, chosen one group after the
            other.
        diversity_penalty: The number subtracted from a token's score for each beam of
            an earlier group that chose it in the same step.
        length_penalty: The exponent of the length by which beam scores are divided.
        early_stopping: `True`, `False` or `"never"`, as in Hugging Face.
        renormalize_logits: Whether beam search makes probabilities of the sum 1 again
            after the processors.
        penalty_alpha: The weight, from 0 to 1, that contrastive search gives to the
            similarity of a token's vector with those before, against its probability,
            among the `top_k` most likely tokens.
        seed: The random seed; the same seed gives the same tokens.

    Example:
    >>> ka.GenerationSettings(do_sample=True, top_p=0.9).top_p
    0.9
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words: Sequence[Sequence[int]] = ()
    suppress_tokens: Sequence[int] = ()
    logit_bias: Mapping[Any, float] = field(default_factory=dict)
    forced_first_token: int | None = None
    forced_last_token: int | None = None
    allowed_sequences: Sequence[Sequence[int]] = ()
    allowed_tokens: Callable[[int, list[int]], Any] | None = None
    processors: Sequence[Callable] = ()
    stop_token_ids: Sequence[int] | None = None
    stop_strings: Sequence[str] = ()
    num_return_sequences: int = 1
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    renormalize_logits: bool = False
    penalty_alpha: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("max_new_tokens", "num_return_sequences", "num_beams", "top_k")
        for name in (*names, "num_beam_groups"):
            self._check(name, "an int of 1 or more", _whole(getattr(self, name), 1))
        for name in ("min_new_tokens", "no_repeat_ngram_size"):
            self._check(name, "an int of 0 or more", _whole(getattr(self, name), 0))
        for name in ("temperature", "repetition_penalty"):
            self._check(name, "above 0", getattr(self, name) > 0)
        for name in ("top_p", "min_p", "typical_p", "penalty_alpha"):
            value = getattr(self, name)
            self._check(name, "from 0 to 1", value is None or 0 <= value <= 1)
        self._check(
            "early_stopping",
            "True, False or 'never'",
            self.early_stopping in (True, False, "never"),
        )
        texts = not isinstance(self.stop_strings, str) and all(self.stop_strings)
        self._check("stop_strings", "a list of texts that are not empty", texts)
        self._check(
            "min_new_tokens",
            f"at most max_new_tokens={self.max_new_tokens}",
            self.min_new_tokens <= self.max_new_tokens,
        )
        self._check_modes()

    def _check_modes(self):
        if not self.do_sample:
            names = {"temperature", "top_k", "top_p", "min_p", "typical_p"}
            contrastive = self.penalty_alpha is not None
            for name in sorted(names - ({"top_k"} if contrastive else set())):
                unset = getattr(self, name) == (1.0 if name == "temperature" else None)
                self._check(name, "left at its default without `do_sample=True`", unset)
            self._check(
                "num_return_sequences",
                "at most `num_beams` without `do_sample=True`, or rows would be equal",
                self.num_return_sequences <= self.num_beams,
            )
        if self.num_beams == 1:
            plain = self.length_penalty == 1.0 and self.early_stopping is False
            name = "length_penalty" if self.length_penalty != 1.0 else "early_stopping"
            self._check(name, "left at its default without `num_beams` above 1", plain)
        else:
            self._check(
                "do_sample",
                "False with `num_beams` above 1: beams are searched, not drawn",
                not self.do_sample,
            )
        self._check_other_modes()
        words = "only one of `allowed_tokens` and `allowed_sequences`"
        both = self.allowed_tokens is not None and len(self.allowed_sequences) > 0
        self._check("allowed_sequences", words, not both)

    def _check_other_modes(self):
        grouped = self.num_beam_groups > 1
        self._check(
            "num_beam_groups",
            f"a divisor of num_beams={self.num_beams}",
            self.num_beams % self.num_beam_groups == 0,
        )
        self._check(
            "diversity_penalty",
            "above 0 with `num_beam_groups` above 1, and 0 without",
            self.diversity_penalty > 0 if grouped else self.diversity_penalty == 0,
        )
        if self.penalty_alpha is not None:
            self._check(
                "penalty_alpha",
                "`None` with beams or `do_sample=True`: it is a separate mode",
                self.num_beams == 1 and not self.do_sample,
            )
            self._check(
                "top_k", "2 or more with `penalty_alpha`", (self.top_k or 0) > 1
            )

    def _check(self, name, expected, fulfilled):
        if not fulfilled:
            raise ValueError(
                f"`{name}` must be {expected}. Received: {name}={getattr(self, name)!r}"
            )

    def make_processors(self, stop_token_ids: Sequence[int]) -> list[Callable]:
        """Returns the processors of these settings, in their order.

        Args:
            stop_token_ids: The tokens that end a row.
        """
        ends = list(stop_token_ids)
        bad_words = [w for w in self.bad_words if list(w) not in [[x] for x in ends]]
        if len(self.allowed_sequences) and not ends:
            raise ValueError(
                "`allowed_sequences` needs a token that ends a row: pass "
                "`stop_token_ids=`. Received: none"
            )
        wanted = [
            (self.logit_bias, lambda: p.LogitBias(self.logit_bias)),
            (
                self.repetition_penalty != 1.0,
                lambda: p.RepetitionPenalty(self.repetition_penalty),
            ),
            (
                self.frequency_penalty,
                lambda: p.FrequencyPenalty(self.frequency_penalty),
            ),
            (self.presence_penalty, lambda: p.PresencePenalty(self.presence_penalty)),
            (
                self.no_repeat_ngram_size,
                lambda: p.NoRepeatNGram(self.no_repeat_ngram_size),
            ),
            (bad_words, lambda: p.BadWords(bad_words)),
            (
                self.min_new_tokens and ends,
                lambda: p.MinNewTokens(self.min_new_tokens, ends),
            ),
            (
                len(self.allowed_sequences),
                lambda: p.AllowedSequences(self.allowed_sequences, ends[0]),
            ),
            (
                self.allowed_tokens,
                lambda: p.AllowedTokens(self.allowed_tokens),  # pyright: ignore
            ),
            (
                self.forced_first_token is not None,
                lambda: p.ForcedFirstToken(self.forced_first_token),  # pyright: ignore
            ),
            (
                self.forced_last_token is not None,
                lambda: p.ForcedLastToken(self.forced_last_token),  # pyright: ignore
            ),
            (len(self.suppress_tokens), lambda: p.SuppressTokens(self.suppress_tokens)),
        ]
        chain = [make() for is_wanted, make in wanted if is_wanted]
        last = [p.LogSoftmax()] if self.renormalize_logits else []
        return [*chain, *self.processors, *self._filters(), *last]

    def _filters(self):
        if not self.do_sample:
            return []
        wanted = [
            (self.temperature != 1.0, p.Temperature, self.temperature),
            (self.top_k is not None, p.TopK, self.top_k),
            (self.top_p is not None and self.top_p < 1, p.TopP, self.top_p),
            (self.min_p is not None, p.MinP, self.min_p),
            (
                self.typical_p is not None and self.typical_p < 1,
                p.TypicalP,
                self.typical_p,
            ),
        ]
        return [kind(value) for is_wanted, kind, value in wanted if is_wanted]  # pyright: ignore


def _whole(value: Any, least: int) -> bool:
    return value is None or (
        isinstance(value, int) and not isinstance(value, bool) and value >= least
    )
