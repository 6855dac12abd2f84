"""The catalogue: which signatures each model of this library offers."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_attention.explain.record import attention_maps, record_attention
from keras_attention.export.signatures.cached_decoding import (
    decoder_signature,
    step_signatures,
)
from keras_attention.export.signatures.generation import generation_signature
from keras_attention.export.signatures.hidden_states import hidden_states_signature
from keras_attention.export.signatures.keras_model import (
    Description,
    keras_model_signature,
)
from keras_attention.export.signatures.question_answering import answer_signature
from keras_attention.export.signatures.signature import Signature, TensorInfo
from keras_attention.export.signatures.text_input import from_text
from keras_attention.models.bert import BertEncoder
from keras_attention.models.gpt import GPTDecoder
from keras_attention.models.recurrent_seq2seq import RecurrentSeq2Seq
from keras_attention.models.seq2seq import Seq2SeqTransformer
from keras_attention.models.seq2seq_features import Seq2SeqFeatures
from keras_attention.models.t5 import T5EncoderDecoder
from keras_attention.models.t5_encoder import T5Encoder
from keras_attention.models.vit import VisionTransformer
from keras_attention.tasks.causal_lm import CausalLM
from keras_attention.tasks.common import probabilities
from keras_attention.tasks.image_classifier import ImageClassifier
from keras_attention.tasks.masked_lm import MaskedLM
from keras_attention.tasks.next_sentence import NextSentence
from keras_attention.tasks.question_answerer import QuestionAnswerer
from keras_attention.tasks.sentence_encoder import SentenceEncoder
from keras_attention.tasks.seq2seq_lm import Seq2SeqLM
from keras_attention.tasks.text_classifier import TextClassifier
from keras_attention.tasks.text_scorer import TextScorer
from keras_attention.tasks.token_classifier import TokenClassifier

SEQUENCE = ("batch", "sequence")


def signatures_of(
    model: keras.Model, described: Description | None = None
) -> list[Signature]:
    """Returns the signatures of a model, the one that most users need first.

    Args:
        model: A model of this library, or any built Keras model.
        described: What is known about the inputs of a model that is not ours.
    """
    described = described or Description()
    for kind, make in CATALOGUE.items():
        if isinstance(model, kind):
            described.refuse_for(model)
            return make(model)
    return [keras_model_signature(model, described)]


def resources_of(model: keras.Model) -> list[Any]:
    """Returns what the signatures use besides the weights: tables of tokens.

    Args:
        model: The model. Its tokenizer has tables, and so have Keras' own
            `TextVectorization`, `StringLookup` and `IntegerLookup` layers in it.
    """
    tables = [
        layer.lookup_table
        for layer in model._flatten_layers()
        if getattr(layer, "lookup_table", None) is not None
    ]
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return tables
    return [*tables, tokenizer, *getattr(tokenizer, "resources", ())]


def _sentence_encoder(model: SentenceEncoder) -> list[Signature]:
    limits = _limits(model.encoder, segments=False)
    size = model.encoder.hidden_dim
    tokens = {"sequence_output": TensorInfo("float32", (*SEQUENCE, size))}
    shape = ("batch", model.embedding_dim)
    embedding = {"sentence_embedding": TensorInfo("float32", shape)}
    maps = _maps_outputs(model.encoder)

    def embed(**ids):
        return {"sentence_embedding": model(ids, training=False)["sentence_embedding"]}

    def encode(**ids):
        outputs = model.encoder(ids, training=False)
        return {"sequence_output": outputs["sequence_output"]}

    def attend(**ids):
        return _maps(model.encoder, ids)

    ids = _ids(segments=False)
    names = tuple(maps)
    empty = tuple(embedding)  # exactly 0 for a row that is all padding
    signatures = [
        Signature("embed_ids", embed, ids, embedding, exact_zeros=empty, **limits),
        Signature("encode_ids", encode, ids, tokens, **limits),
        Signature("attention_ids", attend, ids, maps, exact_zeros=names, **limits),
    ]
    if model.tokenizer is None:
        return signatures
    embed_ids, encode_ids, attention_ids = signatures
    prompt = model.prompt_of(model.default_prompt_name)
    if prompt and not model.include_prompt:
        raise ValueError(
            "A signature from text cannot leave the default prompt out of the pooling. "
            "Export the signatures from ids, of a model with tokenizer=None; or use "
            "no default prompt. Received: include_prompt=False, "
            f"default_prompt_name={model.default_prompt_name!r}"
        )

    def tokenizer(texts, texts_pair=None):
        return model.tokenizer(prompt + texts if prompt else texts, texts_pair)

    return [
        from_text("serving_default", embed_ids, tokenizer, tokens=False),
        from_text("encode_text", encode_ids, tokenizer),
        from_text("attention_text", attention_ids, tokenizer),
        *signatures,
    ]


def _encoder(model: BertEncoder | T5Encoder | Seq2SeqFeatures) -> list[Signature]:
    outputs = {"sequence_output": TensorInfo("float32", (*SEQUENCE, model.hidden_dim))}
    if getattr(model, "pooler", None) is not None:
        outputs["pooled_output"] = TensorInfo("float32", ("batch", model.hidden_dim))
    segments = getattr(model, "num_segments", 0) > 0
    return _from_ids(model, outputs, segments=segments)


def _text_classifier(model: TextClassifier) -> list[Signature]:
    ids = _scored(
        model, "classify", "scores", ("batch", len(model.labels)), model.scores
    )
    return [
        *_with_text(model, "classify", ids, tokens=False),
        *_with_text(model, "classify_pair", ids, pairs=True, tokens=False),
        ids,
    ]


def _text_scorer(model: TextScorer) -> list[Signature]:
    ids = _scored(
        model, "score", "scores", ("batch",), lambda logits: model.scores(logits)[:, 0]
    )
    return [
        *_with_text(model, "score", ids, tokens=False),
        *_with_text(model, "score_pair", ids, pairs=True, tokens=False),
        ids,
    ]


def _token_classifier(model: TokenClassifier) -> list[Signature]:
    shape = (*SEQUENCE, len(model.labels))
    ids = _scored(model, "tag", "scores", shape, probabilities)
    return [*_with_text(model, "tag", ids, offsets=True), ids]


def _masked_lm(model: MaskedLM) -> list[Signature]:
    shape = (*SEQUENCE, model.backbone.vocabulary_size)
    ids = _scored(model, "fill", "scores", shape, probabilities)
    return [*_with_text(model, "fill", ids, offsets=True), ids]


def _question_answerer(model: QuestionAnswerer) -> list[Signature]:
    """In `answer_ids`, the caller joins question and context into one row of ids."""
    shape = ("batch", 2, "sequence")
    ids = _scored(model, "answer", "logits", shape, lambda logits: logits)
    return [ids] if model.tokenizer is None else [answer_signature(model, ids), ids]


def _next_sentence(model: NextSentence) -> list[Signature]:
    ids = _scored(model, "follow", "scores", ("batch", 2), probabilities)
    return [*_with_text(model, "follow", ids, pairs=True, tokens=False), ids]


def _scored(
    model: Any, name: str, output: str, shape: Sequence[int | str], scores: Callable
) -> Signature:
    """The signature of a task that takes ids and returns scores."""
    segments = bool(getattr(model.backbone, "num_segments", 0))
    outputs = {output: TensorInfo("float32", tuple(shape))}

    def answer(**ids):
        return {output: scores(model(ids, training=False))}

    limits = _limits(model.backbone, segments=segments)
    return Signature(f"{name}_ids", answer, _ids(segments=segments), outputs, **limits)


def _with_text(
    model: Any, name: str, ids: Signature, **choices: Any
) -> list[Signature]:
    """The same signature from text, if the model has a tokenizer."""
    if model.tokenizer is None:
        return []
    return [from_text(name, ids, model.tokenizer, **choices)]


def _gpt_decoder(model: GPTDecoder) -> list[Signature]:
    outputs = {"logits": TensorInfo("float32", (*SEQUENCE, model.vocabulary_size))}
    if model.head is None:
        shape = (*SEQUENCE, model.hidden_dim)
        outputs = {"sequence_output": TensorInfo("float32", shape)}
    return _from_ids(model, outputs, segments=False)


def _causal_lm(model: CausalLM) -> list[Signature]:
    """The whole loop, one step of it, and the decoder without a cache."""
    decoder = model.decoder
    loops = [] if model.tokenizer is None else [generation_signature(model)]
    ids = generation_signature(model, name="generate_ids", from_text=False)
    steps = [decoder_signature(decoder), *step_signatures(decoder)]
    return [*loops, *steps, ids, *_gpt_decoder(decoder)]


def _from_ids(
    model: Any, outputs: dict[str, TensorInfo], *, segments: bool
) -> list[Signature]:
    """Two signatures from ids: the model's own outputs, and its attention maps."""
    ids, limits = _ids(segments=segments), _limits(model, segments=segments)
    maps = _maps_outputs(model)

    def answer(**inputs):
        answers = model(inputs, training=False)
        return {name: answers[name] for name in outputs}

    def attend(**inputs):
        return _maps(model, inputs)

    names = tuple(maps)
    served = Signature("serving_default", answer, ids, outputs, **limits)
    states = ["hidden_states"]
    if isinstance(model, Seq2SeqFeatures):
        states = ["encoder_hidden_states", "decoder_hidden_states"]
    return [
        served,
        Signature("attention", attend, ids, maps, exact_zeros=names, **limits),
        hidden_states_signature(model, served, dict.fromkeys(states, SEQUENCE)),
    ]


def _vision_transformer(model: VisionTransformer) -> list[Signature]:
    sizes = (*model.image_size, model.num_channels)
    images = {"images": TensorInfo("float32", ("batch", *sizes))}
    length, size = model.max_sequence_length, model.hidden_dim
    outputs = {"sequence_output": TensorInfo("float32", ("batch", length, size))}
    if model.pooler is not None:
        outputs["pooled_output"] = TensorInfo("float32", ("batch", size))

    def answer(images):
        answers = model(images, training=False)
        return {name: answers[name] for name in outputs}

    served = Signature("serving_default", answer, images, outputs)
    states = {"hidden_states": ("batch", length)}
    return [served, hidden_states_signature(model, served, states)]


def _encoder_decoder(model: Any) -> list[Signature]:
    """The logits at each target token, from the ids of source and target."""
    axes = {"encoder": ("batch", "source"), "decoder": ("batch", "target")}
    inputs, limits = {}, {}
    for side, shape in axes.items():
        inputs[f"{side}_token_ids"] = TensorInfo("int32", shape)
        inputs[f"{side}_padding_mask"] = TensorInfo("bool", shape)
        limits[f"{side}_token_ids"] = model.vocabulary_size
    sizes = (*axes["decoder"], model.vocabulary_size)
    outputs = {"logits": TensorInfo("float32", sizes)}
    longest = model.max_sequence_length
    longest = {} if longest is None else dict.fromkeys(("source", "target"), longest)

    def answer(**ids):
        return {"logits": model(ids, training=False)["logits"]}

    settings = {"limits": limits, "max_lengths": longest}
    served = Signature("serving_default", answer, inputs, outputs, **settings)
    states = {f"{side}_hidden_states": shape for side, shape in axes.items()}
    return [served, hidden_states_signature(model, served, states)]


def _seq2seq_lm(model: Seq2SeqLM) -> list[Signature]:
    """The whole loop, from text and from ids, and the logits of given targets."""
    loops = [] if model.tokenizer is None else [generation_signature(model)]
    ids = generation_signature(model, name="generate_ids", from_text=False)
    return [*loops, ids, *_encoder_decoder(model.backbone)]


def _image_classifier(model: ImageClassifier) -> list[Signature]:
    images = _vision_transformer(model.backbone)[0].inputs
    outputs = {"scores": TensorInfo("float32", ("batch", len(model.labels)))}

    def answer(images):
        return {"scores": probabilities(model(images, training=False))}

    return [Signature("classify", answer, images, outputs)]


# A model's class -> the function that makes its signatures.
CATALOGUE = {
    ImageClassifier: _image_classifier,
    Seq2SeqLM: _seq2seq_lm,
    RecurrentSeq2Seq: _encoder_decoder,
    TextClassifier: _text_classifier,
    TextScorer: _text_scorer,
    TokenClassifier: _token_classifier,
    MaskedLM: _masked_lm,
    NextSentence: _next_sentence,
    QuestionAnswerer: _question_answerer,
    SentenceEncoder: _sentence_encoder,
    BertEncoder: _encoder,
    T5Encoder: _encoder,
    Seq2SeqFeatures: _encoder,
    CausalLM: _causal_lm,
    GPTDecoder: _gpt_decoder,
    VisionTransformer: _vision_transformer,
    Seq2SeqTransformer: _encoder_decoder,
    T5EncoderDecoder: _encoder_decoder,
}


def _ids(*, segments: bool) -> dict[str, TensorInfo]:
    ids = {"token_ids": TensorInfo("int32", SEQUENCE)}
    if segments:
        ids["segment_ids"] = TensorInfo("int32", SEQUENCE)
    return {**ids, "padding_mask": TensorInfo("bool", SEQUENCE)}


def _limits(model: Any, *, segments: bool) -> dict[str, Any]:
    limits = {"token_ids": model.vocabulary_size}
    if segments:
        limits["segment_ids"] = model.num_segments
    longest = model.max_sequence_length
    longest = {} if longest is None else {"sequence": longest}
    return {"limits": limits, "max_lengths": longest}


def _maps(model: Any, ids: dict[str, Any]) -> dict[str, Any]:
    _, maps = record_attention(model, ids, training=False)
    return {output_name(name): weights for name, weights in maps.items()}


def _maps_outputs(model: Any) -> dict[str, TensorInfo]:
    """Describes a model's attention maps, by running it once on two tokens."""
    maps = attention_maps(model, keras.ops.zeros((1, 2), "int32"))
    axes = ("sequence", "sequence")
    return {
        output_name(name): TensorInfo("float32", ("batch", *m.shape[1:-2], *axes))
        for name, m in maps.items()
    }


def output_name(layer: str) -> str:
    """Returns a layer's name as an output name: `block_0/attention` has a slash."""
    return layer.replace("/", "_").replace("#", "_")
