"""Tokenizers that `save` wrote, loaded here and by transformers."""

import pytest
from text.byte_pair.tokenizer_test import END, MERGES, VOCABULARY
from text.sentence_piece.tokenizer_test import MODELS, SENTENCES, trained

import keras_attention as ka
from keras_attention.text.sentence_piece.files import SPECIAL

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "is"]
WORDS += ["blue", "under", "été", "a"]
PAIR = {"start": ["<s>"], "middle": ["</s>", "</s>"], "end": ["</s>"]}


def word_piece():
    return ka.WordPieceTokenizer(
        WORDS, lowercase=False, strip_accents=True, max_length=19, padding_side="left"
    )


def byte_pair():
    return ka.BytePairTokenizer(
        VOCABULARY,
        MERGES,
        special_tokens={"eos": END, "bos": END},
        template={"start": [END]},
        padding_side="left",
        max_length=17,
    )


def of_pieces(kind):
    model = trained(**MODELS["bpe with bytes" if kind == "Llama" else "unigram"])
    pieces = ka.SentencePieceTokenizer(model).vocabulary
    options = {
        "T5": {
            "vocabulary": [*pieces, "<extra_id_1>", "<extra_id_0>"],
            "template": {"middle": ["</s>"], "end": ["</s>"]},
        },
        "Llama": {"template": {"start": ["<s>"], "middle": ["<s>"]}},
        "XLMRoberta": {
            "vocabulary": ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:], "<mask>"],
            "template": PAIR,
            "special_tokens": {**SPECIAL, "cls": "<s>", "sep": "</s>"},
        },
        "Marian": {
            "vocabulary": ["</s>", "<unk>", *pieces[3:], "<pad>"],
            "template": {"end": ["</s>"]},
        },
    }
    return ka.SentencePieceTokenizer(model, **options[kind], max_length=23)


MADE = {
    "word piece": word_piece,
    "byte pair": byte_pair,
    **{kind: lambda kind=kind: of_pieces(kind) for kind in ("T5", "Llama")},
    **{kind: lambda kind=kind: of_pieces(kind) for kind in ("XLMRoberta", "Marian")},
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_saved_tokenizer_loads_with_the_same_config(make, tmp_path):
    tokenizer = make()
    tokenizer.save(tmp_path)
    again = ka.load_tokenizer(tmp_path)
    assert again.get_config() == tokenizer.get_config() | {
        "special_tokens": again.get_config()["special_tokens"]
    }
    given = tokenizer.get_config()["special_tokens"].items()
    assert given <= again.get_config()["special_tokens"].items()
    again.save(tmp_path / "again")
    for path in tmp_path.glob("*.*"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({*MADE} - {"Marian"}))  # it needs a target.spm
def test_transformers_loads_it_with_the_same_ids(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = MADE[kind]()
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in SENTENCES[:50]:
        ids = tokenizer([text])["token_ids"].numpy()[0].tolist()
        assert ids == theirs(text, truncation=True)["input_ids"]


def test_a_tokenizer_of_no_known_family_is_not_saved(tmp_path):
    model = trained(**MODELS["unigram"])
    tokenizer = ka.SentencePieceTokenizer(model, template={"start": ["</s>", "<s>"]})
    with pytest.raises(ValueError, match="No tokenizer of transformers"):
        tokenizer.save(tmp_path)


def test_a_saved_model_has_its_tokenizer(tmp_path):
    tokenizer = word_piece()
    encoder = ka.BertEncoder(
        len(WORDS),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=19,
    )
    model = ka.TextClassifier(encoder, ["no", "yes"], tokenizer)
    ka.save_pretrained(model, tmp_path / "model")
    again = ka.from_pretrained(tmp_path / "model")
    assert again.tokenizer.get_config() == tokenizer.get_config()
    texts = ["the cats", "blue"]
    assert again.classify(texts) == model.classify(texts)
