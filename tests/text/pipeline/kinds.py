"""Small tokenizers of every kind, trained by `tokenizers` on the documentation."""

import functools
import json
import pathlib
import random

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

DOCS = pathlib.Path(__file__).parents[3] / "docs"
WORDS = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CASED = (
    f"[^\\r\\n\\p{{L}}\\p{{N}}]?{UPPER}*{LOWER}+{ENDING}"
    f"|[^\\r\\n\\p{{L}}\\p{{N}}]?{UPPER}+{LOWER}*{ENDING}|\\p{{N}}{{1,3}}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
SIGNS = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
ADDED = [
    AddedToken("<extra>", special=True),
    AddedToken("<mask>", lstrip=True, special=True),
    AddedToken("[R]", rstrip=True),
    AddedToken("cat", single_word=True),
    AddedToken("  ", normalized=False),
    AddedToken("    ", normalized=False),
    AddedToken("ÀB", normalized=True),
]
TOKENS = ["<extra>", "<mask>", " <mask>", "[R]", "[R] ", "cat", " cat ", "ÀB", "àb"]
TOKENS += ["</s>", "<unk>", "<s>", "[CLS]"]
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "[CLS]", "[SEP]"]


@functools.cache
def sentences():
    """Returns the lines of the documentation."""
    files = sorted(DOCS.glob("*.md"))
    return "\n".join(f.read_text(encoding="utf-8") for f in files).splitlines()


def texts(count, seed=0):
    """Returns lines of the documentation, and strings of odd characters and tokens."""
    rng = random.Random(seed)
    pool = [
        *"aAbBzZéÉß ıİſK09٣½²!?.,'\"-_()[]{}<>/\\|@#$%^&*+=~`\t\n\r  \u00a0\u3000",
        *"\u200b\u200d\u2028\u0085\x00\x07\ufeff\ufffd中文字日本語かなカナ한국어กำहिन्दी",
        *"👨\u200d👩🇩🇪e\u0301a\u0300\u0323\u030aﬁＡｶﾞ①Ω㎏ǅ▁Ġ１２３",
        *("  ", "    ", "\n\n", " \n", "\r\n", "the ", "Hello", "world", " don't"),
        *("I'M", "12345", "1,234.56", "été", "naïve", "Ünïcode", "'s", "'re", "'LL"),
        *TOKENS * 2,
    ]
    odd = [
        "".join(rng.choice(pool) for _ in range(rng.randrange(30)))
        for _ in range(count // 2)
    ]
    return odd + rng.choices(sentences(), k=count - len(odd))


def _trained(model, trainer, normalizer=None, cutter=None, decoder=None, **options):
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if cutter is not None:
        tokenizer.pre_tokenizer = cutter
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.add_tokens(ADDED)
    if options:
        names = options.pop("names")
        tokens = [(name, tokenizer.token_to_id(name)) for name in names]
        tokenizer.post_processor = processors.TemplateProcessing(
            **options, special_tokens=tokens
        )
    return tokenizer


def _unigram(*steps, **options):
    trainer = trainers.UnigramTrainer(
        vocab_size=700, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    return _trained(models.Unigram(), trainer, *steps, **options)


def _t5():
    steps = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace("``", '"')]
    steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    return _unigram(
        normalizers.Sequence(steps),
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
        single="$A </s>",
        pair="$A </s> $B </s>",
        names=["</s>"],
    )


def _xlm_roberta():
    steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    cutters = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    return _unigram(
        normalizers.Sequence(steps),
        pre_tokenizers.Sequence(cutters),
        decoders.Metaspace(),
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        names=["<s>", "</s>"],
    )


def _whole_texts():
    cutter = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _unigram(normalizers.NFC(), cutter, decoders.Metaspace("▁", "first"))


def _pairs(special=("<unk>",), alphabet=(), model=None, **trainer):
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*special],
        show_progress=False,
        initial_alphabet=[*alphabet],
        **trainer,
    )
    return models.BPE(**(model or {})), trainer


def _llama():
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    decoder.append(decoders.Strip(" ", 1, 0))
    tokenizer = _trained(
        *_pairs(tokens, model=model, limit_alphabet=50),
        normalizers.Sequence(steps),
        pre_tokenizers.Split("▁", "merged_with_next"),  # for the training
        decoders.Sequence(decoder),
        single="<s> $A",
        pair="<s> $A <s>:1 $B:1",
        names=["<s>"],
    )
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = None
    data["added_tokens"] = [
        t for t in data["added_tokens"] if "<0x" not in t["content"]
    ]
    return Tokenizer.from_str(json.dumps(data))


def _clip():
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " ")]
    cutters = [
        pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    model = {"unk_token": "<unk>", "end_of_word_suffix": "</w>"}
    return _trained(
        *_pairs(model=model, end_of_word_suffix="</w>"),
        normalizers.Sequence([*steps, normalizers.Lowercase()]),
        pre_tokenizers.Sequence(cutters),
        decoders.BPEDecoder("</w>"),
    )


def _letters():
    return _trained(
        *_pairs(model={"unk_token": "<unk>"}, limit_alphabet=40),
        normalizers.Lowercase(),
        pre_tokenizers.Whitespace(),
    )


def _byte_level(*cutters, normalizer=None, prefix=False, **model):
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not cutters)
    cut = pre_tokenizers.Sequence([*cutters, level]) if cutters else level
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    parts = _pairs((), alphabet, model)
    tokenizer = _trained(*parts, normalizer, cut, decoders.ByteLevel())
    tokenizer.post_processor = processors.ByteLevel(
        trim_offsets=True, add_prefix_space=prefix
    )
    return tokenizer


def _split(pattern, behavior="isolated"):
    return pre_tokenizers.Split(Regex(pattern), behavior)


def _digits():
    tokenizer = _byte_level(pre_tokenizers.Digits(individual_digits=True))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    return tokenizer


def _word_level():
    steps = [normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()]
    cutters = [pre_tokenizers.Whitespace(), pre_tokenizers.Digits()]
    trainer = trainers.WordLevelTrainer(
        vocab_size=500, special_tokens=["<unk>"], show_progress=False
    )
    return _trained(
        models.WordLevel(unk_token="<unk>"),
        trainer,
        normalizers.Sequence(steps),
        pre_tokenizers.Sequence(cutters),
    )


def _word_piece(normalizer, cutter, most=100, **options):
    trainer = trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=SPECIAL, show_progress=False
    )
    model = models.WordPiece(unk_token="<unk>", max_input_chars_per_word=most)
    decoder = decoders.WordPiece(cleanup=most == 100)
    return _trained(model, trainer, normalizer, cutter, decoder, **options)


def _bert():
    return _word_piece(
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        names=["[CLS]", "[SEP]"],
    )


def _short_words():
    cutters = [
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Punctuation("merged_with_previous"),
    ]
    return _word_piece(normalizers.NFD(), pre_tokenizers.Sequence(cutters), most=9)


def _cut(behavior):
    model = {"unk_token": "<unk>"}
    return _trained(*_pairs(model=model), None, _split("[aeiou ]|st", behavior))


KINDS = {
    "unigram of T5": _t5,
    "bytes for the unknown": _llama,
    "o200k": lambda: _byte_level(_split(CASED), ignore_merges=True),
    "word level": _word_level,
    # All others are slow, because each is compiled.
    "unigram of XLM-R": _xlm_roberta,
    "unigram of whole texts": _whole_texts,
    "letters": _letters,
    "CLIP": _clip,
    "GPT-2": lambda: _byte_level(prefix=True),
    "cl100k": lambda: _byte_level(_split(WORDS), normalizer=normalizers.NFC()),
    "DeepSeek": lambda: _byte_level(
        _split("\\p{N}{1,3}"), _split("[一-龥぀-ゟ゠-ヿ]+"), _split(SIGNS)
    ),
    "digits": _digits,
    "word piece": _bert,
    "short words": _short_words,
    **{
        name: functools.partial(_cut, name)
        for name in (
            "removed",
            "isolated",
            "merged_with_previous",
            "merged_with_next",
            "contiguous",
        )
    },
}
QUICK = 4
