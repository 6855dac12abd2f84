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
from keras_attention.tasks.token_classifier import TokenClassifier
from keras_attention.weights import configs, families
from keras_attention.weights.rules import FLAT, LINEAR, SAME, Rule


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


# Family -> (the hidden layer's activation, its tensors, the last layer's tensors).
CLASSIFIERS = {
    "bert": (None, None, "classifier"),
    "roberta": ("tanh", "classifier.dense", "classifier.out_proj"),
    "distilbert": ("relu", "pre_classifier", "classifier"),
}
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
TIED = "a copy of the token table or of its bias"


def _labels(config: Mapping[str, Any]) -> list[str]:
    names = config.get("id2label") or {}
    number = len(names) or config.get("num_labels", 2)
    by_id = {int(index): name for index, name in names.items()}
    return [by_id.get(index, f"LABEL_{index}") for index in range(number)]


def _label_config(model: Any) -> dict[str, Any]:
    return {
        "id2label": {str(index): name for index, name in enumerate(model.labels)},
        "label2id": {name: index for index, name in enumerate(model.labels)},
    }


def _dropout(config: Mapping[str, Any]) -> float:
    entries = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob")
    rates = [config[name] for name in entries if config.get(name) is not None]
    return rates[0] if rates else 0.0


def _family(model: Any, table: Mapping[str, Any]) -> str:
    family = families.family_of_model(model.backbone)
    for name in family.MODEL_TYPES if family else ():
        if name in table:
            return name
    raise ValueError(
        "transformers has no such head on this backbone. Supported families: "
        f"{', '.join(table)}. Received: {type(model).__name__} on "
        f"{type(model.backbone).__name__}"
    )


def _of_family(config: Mapping[str, Any], table: Mapping[str, Any]) -> Any:
    name = config.get("model_type", "")
    if name not in table:
        raise ValueError(
            f"This family has no such head here. Supported: {', '.join(table)}. "
            f"Received: model_type={name!r}"
        )
    return table[name]


def _linear(name: str, projection: Any) -> Iterator[Rule]:
    yield Rule(f"{name}.weight", projection.kernel, LINEAR)
    yield Rule(f"{name}.bias", projection.bias, FLAT)


def _text_classifier(backbone, tokenizer, config, names):
    activation, _, _ = _of_family(config, CLASSIFIERS)
    problem, labels = config.get("problem_type"), _labels(config)
    one = len(labels) == 1 and problem is None
    if problem == "regression" or one:
        raise ValueError(
            "A model that predicts one number is not a classifier; load it with "
            "task='backbone'. Supported: 'single_label_classification', "
            "'multi_label_classification'. "
            f"Received: problem_type={problem!r}, {len(labels)} labels"
        )
    return TextClassifier(
        backbone,
        labels,
        tokenizer,
        multi_label=problem == "multi_label_classification",
        pooling="first" if activation else None,
        hidden_activation=activation,
        dropout=_dropout(config),
    )


def _text_classifier_rules(model):
    activation, hidden, last = CLASSIFIERS[_family(model, CLASSIFIERS)]
    pooling = "first" if activation else "pooled"
    if (model.hidden_activation, model.pooling) != (activation, pooling):
        raise ValueError(
            "transformers computes this family's classifier with "
            f"pooling={pooling!r}, hidden_activation={activation!r}. Save the model "
            f"as .keras. Received: pooling={model.pooling!r}, "
            f"hidden_activation={model.hidden_activation!r}"
        )
    if hidden:
        yield from _linear(hidden, model.head.hidden)
    yield from _linear(last, model.head.output_projection)


def _text_classifier_config(model):
    single = "single_label_classification"
    problem = "multi_label_classification" if model.multi_label else single
    rate = "classifier_dropout"
    if _family(model, CLASSIFIERS) == "distilbert":
        rate = "seq_classif_dropout"
    return {**_label_config(model), "problem_type": problem, rate: model.dropout}


def _token_classifier(backbone, tokenizer, config, names):
    labels, dropout = _labels(config), _dropout(config)
    return TokenClassifier(backbone, labels, tokenizer, dropout=dropout)


def _question_answerer(backbone, tokenizer, config, names):
    dropout = config.get("qa_dropout", 0.0)
    return QuestionAnswerer(backbone, tokenizer, dropout=dropout)


def _masked_lm(backbone, tokenizer, config, names):
    _of_family(config, MASKED)
    configs.refuse_others(config, {"tie_word_embeddings": True})
    activation = "gelu" if config["model_type"] == "roberta" else None
    return MaskedLM(backbone, tokenizer, activation=activation)


def _masked_lm_rules(model):
    layer, norm, bias = MASKED[_family(model, MASKED)]
    yield from _linear(layer, model.head.transform)
    yield Rule(f"{norm}.weight", model.head.normalization.gamma, SAME)
    yield Rule(f"{norm}.bias", model.head.normalization.beta, SAME)
    yield Rule(bias, model.head.bias, SAME)


def _image_classifier(backbone, tokenizer, config, names):
    return ImageClassifier(backbone, _labels(config))


# The defaults of transformers for entries that a config lacks.
_TOKENS: dict[str, dict[str, int]] = {
    "bart": {
        "decoder_start_token_id": 2,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
    },
    "t5": {"decoder_start_token_id": 0, "eos_token_id": 1},
}


def _seq2seq_lm(backbone, tokenizer, config, names):
    config = {**_TOKENS.get(config["model_type"], {}), **config}
    ends = config.get("eos_token_id")
    words = config.get("bad_words_ids") or []
    if any(len(word) != 1 for word in words):
        raise ValueError(
            "config.json must not have bad_words_ids of several tokens; remove them "
            "and pass them as `GenerationSettings(bad_words=…)`. "
            f"Received: bad_words_ids={words}"
        )
    return Seq2SeqLM(
        backbone,
        tokenizer,
        start_token_id=config.get("decoder_start_token_id"),
        end_token_id=ends[0] if isinstance(ends, list) else ends,
        forced_first_token=config.get("forced_bos_token_id"),
        forced_last_token=config.get("forced_eos_token_id"),
        suppress_tokens=[token for (token,) in words],
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


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda model: isinstance(model, kind)


def _last(name: str) -> Callable[[Any], Iterator[Rule]]:
    return lambda model: _linear(name, model.head.output_projection)


_CAUSAL_LM = {
    "task": "causal_lm",
    "build": lambda backbone, tokenizer, config, names: CausalLM(backbone, tokenizer),
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
        _text_classifier,
        _is(TextClassifier),
        _text_classifier_rules,
        _text_classifier_config,
    ),
    Head(
        "ForTokenClassification",
        "token_classifier",
        _token_classifier,
        _is(TokenClassifier),
        _last("classifier"),
        lambda model: {**_label_config(model), "classifier_dropout": model.dropout},
    ),
    Head(
        "ForQuestionAnswering",
        "question_answerer",
        _question_answerer,
        _is(QuestionAnswerer),
        _last("qa_outputs"),
        lambda model: {"qa_dropout": model.dropout},
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
        _label_config,
    ),
)


def of_config(config: Mapping[str, Any]) -> Head | None:
    """Returns the head of a config.json's architecture; `None` for a backbone."""
    architectures = config.get("architectures") or [""]
    for head in HEADS:
        if architectures[0].endswith(head.suffix):
            return head
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
