"""Task heads of Hugging Face's files, such as `BertForSequenceClassification`.

There is one `Head` per task. `from_pretrained` uses the one with the given `task`, or
the one whose `suffix` ends the first of config.json's "architectures".
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_attention.tasks.causal_lm import CausalLM
from keras_attention.tasks.image_classifier import ImageClassifier
from keras_attention.tasks.masked_lm import MaskedLM
from keras_attention.tasks.next_sentence import NextSentence
from keras_attention.tasks.question_answerer import QuestionAnswerer
from keras_attention.tasks.seq2seq_lm import Seq2SeqLM
from keras_attention.tasks.text_classifier import TextClassifier
from keras_attention.tasks.text_scorer import TextScorer
from keras_attention.tasks.token_classifier import TokenClassifier
from keras_attention.weights import classifiers_hf, configs, families, generation_hf
from keras_attention.weights.parts_hf import linear
from keras_attention.weights.rules import SAME, Rule


@dataclass(frozen=True)
class Head:
    """A task on a backbone.

    Attributes:
        suffix: The end of an architecture's name, `"ForSequenceClassification"`.
        task: Its name in `from_pretrained(task=…)`, `"text_classifier"`.
        build: A function of (backbone, tokenizer or `None`, config, names) that returns
            the task model.
        matches: A function of a model that returns whether it is of this task.
        rules: A function of the task model that yields the rules of the head, with the
            names in the file, which have no prefix of the backbone.
        config_of: A function of the task model that returns the entries that it adds
            to the backbone's config.json.
        ignored: A dict of a tensor's name or pattern to the reason why it holds no
            weight.
        in_backbone: Whether the head is a part of the backbone, whose config.json names
            the architecture.
    """

    suffix: str
    task: str
    build: Callable[[keras.Model, Any, dict, Collection[str]], keras.Model]
    matches: Callable[[keras.Model], bool]
    rules: Callable[[keras.Model], Iterator[Rule]]
    config_of: Callable[[keras.Model], dict]
    ignored: Mapping[str, str] = field(default_factory=dict)
    in_backbone: bool = False


# Family -> tensors of the masked-token head: layer, normalization, bias.
MASKED = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}
# Family -> tensors of the token classifier.
TOKEN_CLASSIFIERS = {
    "bert": "classifier",
    "roberta": "classifier",
    "distilbert": "classifier",
    "gpt2": "classifier",
    "llama": "score",
}
TIED = "a copy of the token table or of its bias"


def _token_classifier(backbone, tokenizer, config, names):
    families.of_family(config, TOKEN_CLASSIFIERS)
    labels = classifiers_hf.labels_of(config)
    dropout = classifiers_hf.dropout_of(config)
    return TokenClassifier(backbone, labels, tokenizer, dropout=dropout)


def _token_classifier_rules(model):
    name = TOKEN_CLASSIFIERS[families.family_in(model, TOKEN_CLASSIFIERS)]
    return linear(name, model.head.output_projection)


def _token_classifier_config(model):
    entries = classifiers_hf.entries_of_labels(model.labels)
    return {**entries, "classifier_dropout": model.dropout}


def _question_answerer(backbone, tokenizer, config, names):
    dropout = config.get("qa_dropout", 0.0)
    backbone = classifiers_hf.reader_of(backbone, config)
    return QuestionAnswerer(backbone, tokenizer, dropout=dropout)


def _masked_lm(backbone, tokenizer, config, names):
    form = families.of_family(config, MASKED)
    configs.refuse_others(config, {"tie_word_embeddings": True})
    activation = "gelu" if form is MASKED["roberta"] else None
    return MaskedLM(backbone, tokenizer, activation=activation)


def _masked_lm_rules(model):
    layer, norm, bias = MASKED[families.family_in(model, MASKED)]
    yield from linear(layer, model.head.transform)
    yield Rule(f"{norm}.weight", model.head.normalization.gamma, SAME)
    yield Rule(f"{norm}.bias", model.head.normalization.beta, SAME)
    yield Rule(bias, model.head.bias, SAME)


def _image_classifier(backbone, tokenizer, config, names):
    return ImageClassifier(backbone, classifiers_hf.labels_of(config))


# The defaults of transformers for entries that a config lacks.
_TOKENS: dict[str, dict[str, int]] = {
    "bart": {
        "decoder_start_token_id": 2,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
    },
    "t5": {"decoder_start_token_id": 0, "eos_token_id": 1},
}


def _defaults(config):
    entries = config.get("generation", {})
    ends = config.get("eos_token_id")
    return generation_hf.defaults_of({**entries, "eos_token_id": ends})


def _causal_lm(backbone, tokenizer, config, names):
    return CausalLM(backbone, tokenizer, defaults=_defaults(config))


def _seq2seq_lm(backbone, tokenizer, config, names):
    config = {**_TOKENS.get(config["model_type"], {}), **config}
    ends = config.get("eos_token_id")
    words = config.get("bad_words_ids") or []
    single = [word[0] for word in words if len(word) == 1]
    defaults = _defaults(config)
    # Tokens that no answer has, with any settings: Marian's padding.
    longer = [word for word in words if len(word) > 1]
    if longer:
        defaults["bad_words"] = longer
    else:
        defaults.pop("bad_words", None)
    single += defaults.pop("suppress_tokens", [])
    return Seq2SeqLM(
        backbone,
        tokenizer,
        start_token_id=config.get("decoder_start_token_id"),
        end_token_id=ends[0] if isinstance(ends, list) else ends,
        forced_first_token=config.get("forced_bos_token_id"),
        forced_last_token=config.get("forced_eos_token_id"),
        suppress_tokens=single,
        defaults=defaults,
    )


def _seq2seq_lm_config(model):
    family = families.family_of_model(model.backbone)
    assert family is not None
    (architecture,) = family.config_of(model.backbone)["architectures"]
    kind = (
        "MTModel" if family.MODEL_TYPES == ("marian",) else "ForConditionalGeneration"
    )
    entries = {
        "decoder_start_token_id": model.start_token_id,
        "eos_token_id": model.end_token_id,
        "forced_bos_token_id": model.forced_first_token,
        "forced_eos_token_id": model.forced_last_token,
        "bad_words_ids": [[token] for token in model.suppress_tokens] or None,
    }
    padding = getattr(model.tokenizer, "pad_token_id", None)
    if padding is not None:
        entries["pad_token_id"] = padding
    return {**entries, "architectures": [families.stem(architecture) + kind]}


def generation_config_of(model: Any) -> dict[str, Any]:
    """Returns the generation_config.json of a task; empty for one that writes none.

    Args:
        model: A task model.
    """
    if isinstance(model, CausalLM):
        return generation_hf.entries_of(model)
    if not isinstance(model, Seq2SeqLM):
        return {}
    entries = {**_seq2seq_lm_config(model), **generation_hf.entries_of(model)}
    words = entries.get("bad_words_ids") or []
    single = [[token] for token in model.suppress_tokens]
    entries["bad_words_ids"] = [*single, *(w for w in words if w not in single)] or None
    del entries["architectures"]
    return {name: value for name, value in entries.items() if value is not None}


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda model: isinstance(model, kind)


def _last(name: str) -> Callable[[Any], Iterator[Rule]]:
    return lambda model: linear(name, model.head.output_projection)


_CAUSAL_LM = {
    "task": "causal_lm",
    "build": _causal_lm,
    "matches": _is(CausalLM),
    "rules": lambda model: iter(()),
    "config_of": lambda model: {},
    "in_backbone": True,
}
_SEQ2SEQ_LM = {
    "task": "seq2seq_lm",
    "build": _seq2seq_lm,
    "matches": _is(Seq2SeqLM),
    "rules": lambda model: iter(()),
    "config_of": _seq2seq_lm_config,
    "in_backbone": True,
}
_MASKED_LM = {
    "task": "masked_lm",
    "build": _masked_lm,
    "matches": _is(MaskedLM),
    "rules": _masked_lm_rules,
    "config_of": lambda model: {"tie_word_embeddings": True},
}
_TIED: dict[str, str] = dict.fromkeys(
    (
        "cls.predictions.decoder.*",
        "lm_head.decoder.*",
        "vocab_projector.weight",
    ),
    TIED,
)
HEADS: tuple[Head, ...] = (
    Head("ForCausalLM", **_CAUSAL_LM),
    Head("LMHeadModel", **_CAUSAL_LM),
    Head("ForConditionalGeneration", **_SEQ2SEQ_LM),
    Head("MTModel", **_SEQ2SEQ_LM),
    Head(
        "ForSequenceClassification",
        "text_classifier",
        classifiers_hf.text_classifier,
        _is(TextClassifier),
        classifiers_hf.rules,
        classifiers_hf.config_of,
    ),
    Head(
        "ForSequenceClassification",
        "text_scorer",
        classifiers_hf.text_scorer,
        _is(TextScorer),
        classifiers_hf.rules,
        classifiers_hf.config_of,
    ),
    Head(
        "ForTokenClassification",
        "token_classifier",
        _token_classifier,
        _is(TokenClassifier),
        _token_classifier_rules,
        _token_classifier_config,
    ),
    Head(
        "ForQuestionAnswering",
        "question_answerer",
        _question_answerer,
        _is(QuestionAnswerer),
        _last("qa_outputs"),
        lambda model: {"qa_dropout": model.dropout, **classifiers_hf.tokens_of(model)},
    ),
    Head("ForMaskedLM", **_MASKED_LM, ignored=_TIED),
    Head(
        "ForPreTraining",
        **_MASKED_LM,
        ignored={
            **_TIED,
            "cls.seq_relationship.*": "next sentence: pass task='next_sentence'",
        },
    ),
    Head(
        "ForNextSentencePrediction",
        "next_sentence",
        lambda backbone, tokenizer, config, names: NextSentence(backbone, tokenizer),
        _is(NextSentence),
        _last("cls.seq_relationship"),
        lambda model: {},
        {"cls.predictions.*": "masked tokens: pass task='masked_lm'"},
    ),
    Head(
        "ForImageClassification",
        "image_classifier",
        _image_classifier,
        _is(ImageClassifier),
        _last("classifier"),
        lambda model: classifiers_hf.entries_of_labels(model.labels),
    ),
)


def of_config(config: Mapping[str, Any]) -> Head | None:
    """Returns the head of a config.json's architecture; `None` for a backbone."""
    architectures = config.get("architectures") or [""]
    for head in HEADS:
        if architectures[0].endswith(head.suffix):
            is_one = head.task == "text_classifier" and classifiers_hf.is_scorer(config)
            return of_task("text_scorer") if is_one else head
    return None


def of_task(task: str) -> Head:
    """Returns the head of that name; the error about an unknown one names all."""
    for head in HEADS:
        if head.task == task:
            return head
    known = ", ".join(repr(name) for name in ["backbone", *(h.task for h in HEADS)])
    raise ValueError(
        f"There is no such task. Supported: {known}, and None for the files' own. "
        f"Received: task={task!r}"
    )


def of_model(model: Any) -> Head | None:
    """Returns the head of a task model; `None` for a backbone."""
    return next((head for head in HEADS if head.matches(model)), None)
