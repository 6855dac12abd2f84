"""Heads of `…ForSequenceClassification`: classes of texts, or one score of each."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from keras_attention import untrusted
from keras_attention.models.encoder_decoder import EncoderDecoder
from keras_attention.models.seq2seq_features import Seq2SeqFeatures
from keras_attention.tasks.text_classifier import TextClassifier
from keras_attention.tasks.text_scorer import TextScorer
from keras_attention.weights import families
from keras_attention.weights.parts_hf import linear
from keras_attention.weights.rules import Rule


class Form(NamedTuple):
    """How a family computes its classifier.

    Attributes:
        output: The tensors of the last layer.
        pooling: The vector of a text that it reads, as in `TextClassifier`.
        activation: The activation of the hidden layer; `None` without one.
        hidden: The tensors of the hidden layer.
        use_bias: Whether the last layer has a bias.
    """

    output: str
    pooling: str
    activation: str | None = None
    hidden: str = ""
    use_bias: bool = True


FORMS = {
    "bert": Form("classifier", "pooled"),
    "roberta": Form("classifier.out_proj", "first", "tanh", "classifier.dense"),
    "distilbert": Form("classifier", "first", "relu", "pre_classifier"),
    "bart": Form(
        "classification_head.out_proj", "pooled", "tanh", "classification_head.dense"
    ),
    "gpt2": Form("score", "last", use_bias=False),
    "llama": Form("score", "last", use_bias=False),
}
SINGLE, MULTI = "single_label_classification", "multi_label_classification"
REGRESSION = "regression"
# The activation of a score, which only sentence-transformers writes.
_TORCH = "torch.nn.modules"
ACTIVATIONS = {
    f"{_TORCH}.linear.Identity": "linear",
    f"{_TORCH}.activation.Sigmoid": "sigmoid",
}


def labels_of(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of a config's labels, in the order of the logits.

    Args:
        config: The parsed config.json.
    """
    names = config.get("id2label") or {}
    number = len(names) or config.get("num_labels", 2)
    by_id = {int(index): name for index, name in names.items()}
    return [by_id.get(index, f"LABEL_{index}") for index in range(number)]


def entries_of_labels(labels: Any) -> dict[str, Any]:
    """Returns the config's entries for labels, the inverse of `labels_of`.

    Args:
        labels: The names, in the order of the logits.
    """
    return {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def dropout_of(config: Mapping[str, Any]) -> float:
    """Returns the dropout rate of a head.

    Args:
        config: The parsed config.json.
    """
    entries = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob")
    rates = [config[name] for name in entries if config.get(name) is not None]
    return rates[0] if rates else 0.0


def is_scorer(config: Mapping[str, Any]) -> bool:
    """Whether a config's classifier predicts one number and no class.

    Args:
        config: The parsed config.json.
    """
    problem = config.get("problem_type")
    return problem in (None, REGRESSION) and len(labels_of(config)) == 1


def reader_of(backbone: Any, config: Mapping[str, Any]) -> Any:
    """Returns a backbone as a reader of one text: an encoder-decoder reads it twice.

    Args:
        backbone: A backbone of a family.
        config: The parsed config.json.
    """
    if not isinstance(backbone, EncoderDecoder):
        return backbone
    ends = config.get("eos_token_id", 2)
    end = ends[0] if isinstance(ends, list) else ends
    start = config.get("decoder_start_token_id", 2)
    return Seq2SeqFeatures(backbone, start, end, name="reader")


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that a classifier and a scorer read in the same way."""
    form = families.of_family(config, FORMS)
    return {
        "pooling": None if form.pooling == "pooled" else form.pooling,
        "hidden_activation": form.activation,
        "dropout": dropout_of(config),
        "use_bias": form.use_bias,
    }


def text_classifier(backbone, tokenizer, config, names):
    """Builds the classifier of a config.json."""
    problem, labels = config.get("problem_type"), labels_of(config)
    if problem == REGRESSION or is_scorer(config):
        raise ValueError(
            "A model that predicts numbers is not a classifier. One with one number "
            "is loaded with task='text_scorer'; one with several has no task here, "
            "load it with task='backbone'. Supported problem_type: "
            f"{SINGLE!r}, {MULTI!r}. Received: "
            f"problem_type={problem!r}, {len(labels)} labels"
        )
    if problem not in (None, SINGLE, MULTI):
        raise ValueError(
            f"config.json has a problem_type that is not supported here. Supported: "
            f"{SINGLE!r}, {MULTI!r}, {REGRESSION!r}. "
            f"Received: problem_type={untrusted.show(problem)}"
        )
    return TextClassifier(
        reader_of(backbone, config),
        labels,
        tokenizer,
        multi_label=problem == MULTI,
        **_arguments(config),
    )


def text_scorer(backbone, tokenizer, config, names):
    """Builds the scorer of a config.json: a cross-encoder, reranker or regression."""
    found = config.get("sentence_transformers") or {}
    path = found.get("activation_fn") if isinstance(found, Mapping) else None
    path = path or config.get("sbert_ce_default_activation_function")
    if path is not None and (not isinstance(path, str) or path not in ACTIVATIONS):
        raise ValueError(
            "config.json has an activation of the scores that is not supported here. "
            f"Supported: {', '.join(ACTIVATIONS)}. "
            f"Received: activation_fn={untrusted.show(path)}"
        )
    activation = "linear" if path is None else ACTIVATIONS[path]
    backbone = reader_of(backbone, config)
    return TextScorer(backbone, tokenizer, activation=activation, **_arguments(config))


def rules(model: TextClassifier | TextScorer) -> Iterator[Rule]:
    """Yields the rules of a classifier's or a scorer's head."""
    form = FORMS[families.family_in(model, FORMS)]
    wanted = {
        "pooling": form.pooling,
        "hidden_activation": form.activation,
        "use_bias": form.use_bias,
    }
    given = {name: getattr(model, name) for name in wanted}
    if given != wanted:
        raise ValueError(
            "transformers computes this family's classifier with "
            f"{untrusted.clip(_listed(wanted))}. Save the model as .keras. "
            f"Received: {untrusted.clip(_listed(given))}"
        )
    if form.hidden:
        yield from linear(form.hidden, model.head.hidden)
    yield from linear(form.output, model.head.output_projection)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def config_of(model: TextClassifier | TextScorer) -> dict[str, Any]:
    """Returns the entries of a head in config.json, the inverse of `build`."""
    family = families.family_in(model, FORMS)
    entries: dict[str, Any] = {}
    if family in ("bert", "roberta", "bart", "distilbert"):
        name = "seq_classif_dropout" if family == "distilbert" else "classifier_dropout"
        entries[name] = model.dropout
    if isinstance(model, TextClassifier):
        entries |= entries_of_labels(model.labels)
        entries["problem_type"] = MULTI if model.multi_label else SINGLE
    else:
        entries |= entries_of_labels(["LABEL_0"])
        paths = {ours: path for path, ours in ACTIVATIONS.items()}
        entries["sentence_transformers"] = {"activation_fn": paths[model.activation]}
        if model.activation == "linear":
            entries["problem_type"] = REGRESSION
    return {**entries, **tokens_of(model)}


def tokens_of(model: Any) -> dict[str, Any]:
    """Returns the ids of tokens that transformers needs to find the last token.

    Args:
        model: A task model.
    """
    entries = {}
    padding = getattr(model.tokenizer, "pad_token_id", None)
    if padding is not None:
        entries["pad_token_id"] = padding
    if isinstance(model.backbone, Seq2SeqFeatures):
        entries["decoder_start_token_id"] = model.backbone.start_token_id
        if model.backbone.end_token_id is not None:
            entries["eos_token_id"] = model.backbone.end_token_id
    return entries
