"""What each model of this library can be asked once it is exported."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_attention.explain.record import attention_maps, record_attention
from keras_attention.export.signatures.cached_decoding import (
    decoder_signature,
    step_signatures,
)
from keras_attention.export.signatures.generation import generation_signature
from keras_attention.export.signatures.question_answering import answer_signature
from keras_attention.export.signatures.signature import Signature, TensorInfo
from keras_attention.export.signatures.text_input import from_text
from keras_attention.models.bert import BertEncoder
from keras_attention.models.gpt import GPTDecoder
from keras_attention.models.recurrent_seq2seq import RecurrentSeq2Seq
from keras_attention.models.seq2seq import Seq2SeqTransformer
from keras_attention.models.t5 import T5EncoderDecoder
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
from keras_attention.tasks.token_classifier import TokenClassifier

SEQUENCE = ("batch", "sequence")


def signatures_of(model: keras.Model) -> list[Signature]:
    """The signatures of a model; the first takes what its users have at hand.

    Args:
        model: A model of this library, or any built functional Keras model.
    """
    for kind, make in _JOBS.items():
        if isinstance(model, kind):
            return make(model)
    if getattr(model, "inputs", None) and getattr(model, "outputs", None):
        return [_functional(model)]
    raise ValueError(
        "What this model takes is not known. Pass a model of this library, a "
        "functional Keras model, or your own `signatures=[Signature(...)]`. "
        f"Received: model={model!r}"
    )


def resources_of(model: keras.Model) -> list[Any]:
    """What the signatures read beside the weights: the tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return []
    return [tokenizer, *getattr(tokenizer, "resources", ())]


def _sentence_encoder(model: SentenceEncoder) -> list[Signature]:
    limits = _limits(model.encoder, segments=False)
    size = model.encoder.hidden_dim
    tokens = {"sequence_output": TensorInfo("float32", (*SEQUENCE, size))}
    embedding = {"sentence_embedding": TensorInfo("float32", ("batch", size))}
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
    return [
        from_text("serving_default", embed_ids, model.tokenizer, tokens=False),
        from_text("encode_text", encode_ids, model.tokenizer),
        from_text("attention_text", attention_ids, model.tokenizer),
        *signatures,
    ]


def _bert_encoder(model: BertEncoder) -> list[Signature]:
    outputs = {"sequence_output": TensorInfo("float32", (*SEQUENCE, model.hidden_dim))}
    if model.pooler is not None:
        outputs["pooled_output"] = TensorInfo("float32", ("batch", model.hidden_dim))
    return _from_ids(model, outputs, segments=model.num_segments > 0)


def _text_classifier(model: TextClassifier) -> list[Signature]:
    ids = _scored(
        model, "classify", "scores", ("batch", len(model.labels)), model.scores
    )
    return [
        *_with_text(model, "classify", ids, tokens=False),
        *_with_text(model, "classify_pair", ids, pairs=True, tokens=False),
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
    """Of ids, question and context are one row, which the caller puts together."""
    shape = ("batch", 2, "sequence")
    ids = _scored(model, "answer", "logits", shape, lambda logits: logits)
    return [ids] if model.tokenizer is None else [answer_signature(model, ids), ids]


def _next_sentence(model: NextSentence) -> list[Signature]:
    ids = _scored(model, "follow", "scores", ("batch", 2), probabilities)
    return [*_with_text(model, "follow", ids, pairs=True, tokens=False), ids]


def _scored(
    model: Any, job: str, output: str, shape: Sequence[int | str], scores: Callable
) -> Signature:
    """A task's answer from ids."""
    segments = bool(getattr(model.backbone, "num_segments", 0))
    outputs = {output: TensorInfo("float32", tuple(shape))}

    def answer(**ids):
        return {output: scores(model(ids, training=False))}

    limits = _limits(model.backbone, segments=segments)
    return Signature(f"{job}_ids", answer, _ids(segments=segments), outputs, **limits)


def _with_text(model: Any, job: str, ids: Signature, **choices: Any) -> list[Signature]:
    """The same from text, if the model can read."""
    if model.tokenizer is None:
        return []
    return [from_text(job, ids, model.tokenizer, **choices)]


def _gpt_decoder(model: GPTDecoder) -> list[Signature]:
    outputs = {"logits": TensorInfo("float32", (*SEQUENCE, model.vocabulary_size))}
    return _from_ids(model, outputs, segments=False)


def _causal_lm(model: CausalLM) -> list[Signature]:
    """One step, the whole loop, and the decoder without a cache."""
    decoder = model.decoder
    loops = [] if model.tokenizer is None else [generation_signature(model)]
    ids = generation_signature(model, name="generate_ids", from_text=False)
    steps = [decoder_signature(decoder), *step_signatures(decoder)]
    return [*loops, *steps, ids, *_gpt_decoder(decoder)]


def _from_ids(
    model: Any, outputs: dict[str, TensorInfo], *, segments: bool
) -> list[Signature]:
    """A model's own outputs, and its attention maps, from ids."""
    ids, limits = _ids(segments=segments), _limits(model, segments=segments)
    maps = _maps_outputs(model)

    def answer(**inputs):
        answers = model(inputs, training=False)
        return {name: answers[name] for name in outputs}

    def attend(**inputs):
        return _maps(model, inputs)

    names = tuple(maps)
    return [
        Signature("serving_default", answer, ids, outputs, **limits),
        Signature("attention", attend, ids, maps, exact_zeros=names, **limits),
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

    return [Signature("serving_default", answer, images, outputs)]


def _encoder_decoder(model: Any) -> list[Signature]:
    """The logits after each token of a target, from the ids of both sides."""
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
    return [Signature("serving_default", answer, inputs, outputs, **settings)]


def _seq2seq_lm(model: Seq2SeqLM) -> list[Signature]:
    """The whole loop from text and from ids, and the logits of given targets."""
    loops = [] if model.tokenizer is None else [generation_signature(model)]
    ids = generation_signature(model, name="generate_ids", from_text=False)
    return [*loops, ids, *_encoder_decoder(model.backbone)]


def _image_classifier(model: ImageClassifier) -> list[Signature]:
    images = _vision_transformer(model.backbone)[0].inputs
    outputs = {"scores": TensorInfo("float32", ("batch", len(model.labels)))}

    def answer(images):
        return {"scores": probabilities(model(images, training=False))}

    return [Signature("classify", answer, images, outputs)]


_JOBS = {
    ImageClassifier: _image_classifier,
    Seq2SeqLM: _seq2seq_lm,
    RecurrentSeq2Seq: _encoder_decoder,
    TextClassifier: _text_classifier,
    TokenClassifier: _token_classifier,
    MaskedLM: _masked_lm,
    NextSentence: _next_sentence,
    QuestionAnswerer: _question_answerer,
    SentenceEncoder: _sentence_encoder,
    BertEncoder: _bert_encoder,
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
    return {"limits": limits, "max_lengths": {"sequence": model.max_sequence_length}}


def _maps(model: Any, ids: dict[str, Any]) -> dict[str, Any]:
    _, maps = record_attention(model, ids, training=False)
    return {output_name(name): weights for name, weights in maps.items()}


def _maps_outputs(model: Any) -> dict[str, TensorInfo]:
    """The attention maps of a model, found by running it once on two tokens."""
    maps = attention_maps(model, keras.ops.zeros((1, 2), "int32"))
    axes = ("sequence", "sequence")
    return {
        output_name(name): TensorInfo("float32", ("batch", *m.shape[1:-2], *axes))
        for name, m in maps.items()
    }


def output_name(layer: str) -> str:
    """A layer's name as the name of an output: `block_0/attention` has a slash."""
    return layer.replace("/", "_").replace("#", "_")


def _functional(model: keras.Model) -> Signature:
    """One signature over the inputs and outputs of a functional model."""
    inputs = {_input_name(tensor): tensor for tensor in model.inputs}
    described = {
        name: TensorInfo(tensor.dtype, _axes(tensor.shape))
        for name, tensor in inputs.items()
    }
    outputs = {
        name: TensorInfo(tensor.dtype, _axes(tensor.shape))
        for name, tensor in _named_outputs(model, model.output).items()
    }

    def predict(**tensors):
        arranged = keras.tree.map_structure(
            lambda tensor: tensors[_input_name(tensor)], model.input
        )
        return _named_outputs(model, model(arranged, training=False))

    return Signature(
        "serving_default",
        predict,
        described,
        outputs,
        limits=_embedding_limits(model, described),
        max_lengths=_longest_sequence(model),
    )


def _longest_sequence(model: keras.Model) -> dict[str, int]:
    """What the tables of learned positions allow, those of KerasHub too."""
    names = ("sequence_length", "max_sequence_length")
    sizes = [
        getattr(layer, name)
        for layer in model._flatten_layers()
        if "PositionEmbedding" in type(layer).__name__
        for name in names
        if isinstance(getattr(layer, name, None), int)
    ]
    return {"sequence": min(sizes)} if sizes else {}


def _input_name(tensor: Any) -> str:
    return tensor.name.split(":")[0]


def _axes(shape: tuple[int | None, ...]) -> tuple[int | str, ...]:
    """Names for dynamic axes: the batch, and one name an axis for the rest."""
    names = ["batch", "sequence", *(f"axis_{i}" for i in range(2, len(shape)))]
    return tuple(
        name if size is None else size for name, size in zip(names, shape, strict=False)
    )


def _named_outputs(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """Outputs by the keys of their dict, else by the layers they come from."""
    if isinstance(model.output, dict):
        return dict(outputs)
    names = [tensor._keras_history.operation.name for tensor in model.outputs]
    repeated = [name for name in names if names.count(name) > 1]
    names = [
        f"{name}_{index}" if name in repeated else name
        for index, name in enumerate(names)
    ]
    return dict(zip(names, keras.tree.flatten(outputs), strict=True))


def _embedding_limits(
    model: keras.Model, inputs: dict[str, TensorInfo]
) -> dict[str, int]:
    """Vocabulary sizes of integer inputs that go straight into an embedding."""
    limits = {}
    for layer in model.layers:
        size = getattr(layer, "vocabulary_size", getattr(layer, "input_dim", None))
        if size is None or not getattr(layer, "_inbound_nodes", None):
            continue
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                name = _input_name(tensor)
                if name in inputs and "int" in inputs[name].dtype:
                    limits[name] = min(limits.get(name, size), size)
    return limits
