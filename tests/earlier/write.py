"""Writes the files of `earlier_test.py`; run once per version that is to be remembered.

    python tests/earlier/write.py FOLDER && cd FOLDER && zip -9 -r ../files.zip .

It holds every layer with weights, every task and model in `.keras` files, and artifacts
in two formats, all with weights drawn from fixed seeds, and what they answered.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import keras_attention as ka

TEXTS = ["The cat sat.", "a mat"]
IDS = np.array([[2, 5, 6, 7, 3]])
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a"]
TOKENS += ["mat", "##s", "."]
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


def with_drawn_weights(model):
    for index, variable in enumerate(model.weights):
        if "float" in str(variable.dtype) and "seed" not in variable.path:
            draw = np.random.default_rng(index)
            variable.assign(draw.normal(0, 0.3, variable.shape))
    return model


def all_layers():
    inputs = keras.Input((None, 8))
    x = ka.SinusoidalEncoding()(inputs)
    x = x + ka.AdditiveAttention(6)(x, x)
    dot, luong = ka.DotProductAttention(), ka.GlobalAttention(score="general")
    x = x + dot(x, x) + luong(x, x)
    x = x + ka.LocalAttention("predictive", window=2)(x, x)
    x = x + ka.MultiHeadAttention(2, 4, position=ka.RotaryEmbedding())(x, x)
    x = x + ka.MultiHeadAttention(
        4, 2, num_key_value_heads=2, sliding_window=2, position=ka.AlibiBias()
    )(x, x)
    buckets = ka.MultiHeadAttention(2, 4, position=ka.RelativePositionBias(8, 16))
    x = ka.EncoderBlock(buckets, ka.FeedForward(16))(x)
    shaw = ka.RelativePositionRepresentation(3)
    x = ka.DecoderBlock(ka.MultiHeadAttention(2, 4, position=shaw), ka.FeedForward(16))(
        x
    )
    x = x + ka.LongformerAttention(2, 4, sliding_window=(2, 2))(x, x)
    x = x + ka.BigBirdAttention(
        2, 4, block_size=2, num_random_blocks=1, num_global_blocks=1
    )(x, x)
    x = x + ka.MonotonicAttention(units=5)(x, x)
    return keras.Model(inputs, x)


def recurrent_decoders():
    targets, memory = keras.Input((None, 8)), keras.Input((None, 8))
    gru, lstm = keras.layers.GRUCell, keras.layers.LSTMCell
    cells = [
        ka.AttentionCell(gru(7), ka.AdditiveAttention(6), coverage=True),
        ka.AttentionCell(lstm(7), ka.MonotonicAttention(units=5)),
        ka.AttentionCell(lstm(7), ka.MultiHeadAttention(2, 4)),
        ka.AttentionCell(lstm(7), ka.LocalAttention(window=1), attend_first=True),
    ]
    decoders = [ka.AttentionRNN(cell, return_sequences=True) for cell in cells]
    outputs = [decoder(targets, memory) for decoder in decoders]
    return keras.Model([targets, memory], keras.layers.Concatenate()(outputs))


def tasks():
    """Returns name -> model of everything that reads token ids."""
    tokenizer = ka.WordPieceTokenizer(TOKENS, max_length=16)

    def bert():
        return ka.BertEncoder(
            vocabulary_size=len(TOKENS), **SIZES, max_sequence_length=16
        )

    vocabulary = {"vocabulary_size": len(TOKENS), **SIZES}
    decoder = ka.GPTDecoder(**vocabulary, max_sequence_length=128)
    return {
        "classifier": ka.TextClassifier(bert(), ["no", "yes"], tokenizer),
        "tagger": ka.TokenClassifier(bert(), ["O", "B-x"], tokenizer),
        "answerer": ka.QuestionAnswerer(bert(), tokenizer),
        "masked_lm": ka.MaskedLM(bert(), tokenizer),
        "next_sentence": ka.NextSentence(bert(), tokenizer),
        "sentence_encoder": ka.SentenceEncoder(bert(), tokenizer),
        "causal_lm": ka.CausalLM(decoder),
        "seq2seq": ka.Seq2SeqTransformer(**vocabulary, max_sequence_length=16),
        "t5": ka.T5EncoderDecoder(**vocabulary),
    }


def answer(name, model, x, pixels):
    """Returns what a model of that name answers, as one array."""
    if name == "layers":
        return np.asarray(model(x))
    if name == "recurrent":
        return np.asarray(model([x, x[:, ::-1]]))
    if name == "image":
        return np.asarray(model(pixels))
    if name == "classifier":
        scores = [row["scores"] for row in model.classify(TEXTS)]
        return np.array([[one["no"], one["yes"]] for one in scores])
    if name == "sentence_encoder":
        return np.asarray(model.encode(TEXTS))
    if name in ("seq2seq", "t5"):
        ids = {"encoder_token_ids": IDS, "decoder_token_ids": IDS[:, :3]}
        return np.asarray(model(ids)["logits"])
    outputs = model(IDS)
    if isinstance(outputs, dict):
        outputs = outputs["start_logits"]
    return np.asarray(outputs)


def main(folder):
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 6, 8)).astype("float32")
    pixels = draw.normal(size=(1, 8, 8, 3)).astype("float32")
    vision = ka.VisionTransformer(image_size=8, patch_size=4, **SIZES)
    models = {
        "layers": all_layers(),
        "recurrent": recurrent_decoders(),
        "image": ka.ImageClassifier(vision, ["a", "b"]),
        **tasks(),
    }
    answers = {"x": x, "pixels": pixels}
    for name, model in models.items():
        with_drawn_weights(model).save(folder / f"{name}.keras")
        answers[name] = answer(name, model, x, pixels)
    ka.export_model(models["classifier"], folder / "classifier_saved_model")
    ka.export_model(models["causal_lm"], folder / "causal_lm_onnx", format="onnx")
    encoder = models["sentence_encoder"].encoder
    one = {"format": "onnx", "signatures": ["serving_default"]}
    ka.export_model(encoder, folder / "encoder_onnx", **one)
    np.savez_compressed(folder / "answers.npz", **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
