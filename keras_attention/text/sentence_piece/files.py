"""Reads folders of SentencePiece models into arguments of `SentencePieceTokenizer`.

Their ids are not always those of the model file: each family gives its special tokens
other ids.
"""

import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_attention import untrusted
from keras_attention.text import json_files
from keras_attention.text.json_files import Path, read_optional_json

SPECIAL = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
MODEL_FILES = (
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
)
MAX_MODEL_BYTES = 1 << 28
MAX_EXTRA_IDS = 100_000
_FRAMED = {"cls": "<s>", "sep": "</s>"}
_PAIRS = {"start": ["<s>"], "middle": ["</s>", "</s>"], "end": ["</s>"]}


def read_model(path: Path) -> bytes:
    """Returns the bytes of a model file."""
    try:
        return untrusted.read_bytes(path, MAX_MODEL_BYTES)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "A SentencePiece model is a .model or .spm file. Give its path. "
            f"Received: model={untrusted.clip(path)!r}, which does not exist"
        ) from error


def llama2c_model(path: Path) -> bytes:
    """Returns the SentencePiece model of which llama2.c wrote a `tokenizer.bin`.

    The file holds the score and the text of each piece. The settings that it omits are
    the same for all Llama models: BPE, byte fallback, no normalization.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2 as messages
    except ImportError as error:
        raise ImportError(
            "Reading a tokenizer of llama2.c needs sentencepiece. Install it: pip "
            'install "keras-attention-layers[train-tokenizer]". Received: no module '
            "sentencepiece"
        ) from error
    pieces = list(_llama2c_pieces(read_model(path), path))
    model: Any = messages.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    types = {0: 2, 1: 3, 2: 3}  # unknown, control, control; 6: byte, 1: text
    for number, (score, text) in enumerate(pieces):
        piece_type = types.get(number, 6 if number < 3 + 256 else 1)
        piece = text.strip() if number < 3 else text.replace(" ", "\u2581")
        model.pieces.add(piece=piece, score=score, type=piece_type)
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()


def _llama2c_pieces(data: bytes, path: Path) -> Iterator[tuple[float, str]]:
    position = 4  # after the length of the longest piece
    while position < len(data):
        try:
            score, size = struct.unpack_from("<fi", data, position)
            position += 8 + size
            text = data[position - size : position].decode()
            if size < 1 or position > len(data):
                raise ValueError(f"a piece of {size} bytes")
        except (struct.error, ValueError) as error:
            raise ValueError(
                "This is not a tokenizer of llama2.c, which holds the score, the "
                "length and the text of each piece. Give its tokenizer.bin. "
                f"Received: {untrusted.clip(path)}: {untrusted.clip(error)}"
            ) from error
        yield score, text


def model_file(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the model file of a folder, or `None`."""
    found = [folder / name for name in MODEL_FILES if (folder / name).is_file()]
    return found[0] if found else None


def read_folder(
    folder: pathlib.Path, pieces_of: Callable[[bytes], list[str]]
) -> dict[str, Any]:
    """Returns the constructor's arguments for a folder.

    Args:
        folder: A folder as `SentencePieceTokenizer.from_folder` takes it.
        pieces_of: A function that returns the pieces of a model's bytes.
    """
    path = model_file(folder)
    if path is None:
        raise FileNotFoundError(
            f"A SentencePiece folder holds one of {', '.join(MODEL_FILES)}. Give the "
            f"folder of a downloaded model. Received: folder={str(folder)!r}"
        )
    settings = read_optional_json(folder / json_files.SETTINGS_FILE)
    family = _family(folder, settings)
    model = read_model(path)
    options = _FAMILIES[family](pieces_of(model), settings, folder)
    _append_added(options["vocabulary"], settings, folder)
    given = json_files.special_tokens(settings)
    known = {**SPECIAL, **options.get("special_tokens", {}), **given}
    vocabulary = set(options["vocabulary"])
    return {
        **options,
        "model": model,
        "special_tokens": {
            role: token for role, token in known.items() if token in vocabulary
        },
        **json_files.limits(settings),
    }


def _append_added(vocabulary, settings, folder):
    """Appends the added tokens to the vocabulary; they are not found in raw text."""
    for number, token in sorted(
        (int(n), t["content"])
        for n, t in settings.get("added_tokens_decoder", {}).items()
    ):
        if number == len(vocabulary):
            vocabulary.append(token)
        elif number > len(vocabulary) or vocabulary[number] != token:
            raise ValueError(
                "This tokenizer has another token at this id than its family, so its "
                "ids are not known. Pass vocabulary= and template= to "
                f"SentencePieceTokenizer. Received: {untrusted.show(token)} as id "
                f"{untrusted.show(number)} of {len(vocabulary)} in "
                f"{untrusted.clip(folder)}"
            )


def files_of(
    pieces: list[str], vocabulary: list[str], template: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Returns the class, the settings, the model file's name and further files.

    Args:
        pieces: The pieces of the model file.
        vocabulary: The tokenizer's tokens.
        template: The tokenizer's template.

    Raises:
        ValueError: If no class of transformers has these ids and this template.
    """
    wanted = {part: tokens for part, tokens in template.items() if tokens}
    bos, eos = (bool(template[part]) for part in ("start", "end"))
    tries = (
        ("T5Tokenizer", {"extra_ids": len(vocabulary) - len(pieces)}),
        ("LlamaTokenizer", {"add_bos_token": bos, "add_eos_token": eos}),
        ("XLMRobertaTokenizer", {}),
        ("CamembertTokenizer", {}),
    )
    for name, settings in tries:
        family = name.removesuffix("Tokenizer").lower()
        made = _FAMILIES[family](pieces, settings, None)
        made_template = {part: x for part, x in made["template"].items() if x}
        if made["vocabulary"] == vocabulary and made_template == wanted:
            files = {"t5": MODEL_FILES[0], "llama": MODEL_FILES[2]}
            model = files.get(family, MODEL_FILES[1])
            return {"class": name, "settings": settings, "model": model}
    if wanted == {"end": ["</s>"]}:
        ids = {token: number for number, token in enumerate(vocabulary)}
        marian = {"class": "MarianTokenizer", "settings": {}, "model": MODEL_FILES[3]}
        return {**marian, "vocab.json": ids}
    raise ValueError(
        "No tokenizer of transformers has these ids and special tokens, so it cannot "
        "be written as a folder. Save the model as .keras, which holds any tokenizer. "
        "Received: "
        f"template={dict(template)}, {len(vocabulary)} tokens over {len(pieces)} pieces"
    )


def _family(folder: pathlib.Path, settings: Mapping[str, Any]) -> str:
    """Returns the family by the tokenizer's class, else by the model's type."""
    config = read_optional_json(folder / "config.json")
    named = settings.get("tokenizer_class") or config.get("model_type") or ""
    if not isinstance(named, str):
        json_files.refuse("'tokenizer_class'", "a string", named)
    plain = named.removesuffix("Fast").removesuffix("Tokenizer").lower()
    plain = plain.replace("-", "").replace("_", "")
    if plain not in _FAMILIES:
        raise ValueError(
            "The ids of this family's special tokens are not known; supported: "
            f"{', '.join(sorted(_FAMILIES))}. Pass vocabulary= and template= to "
            f"SentencePieceTokenizer. Received: {untrusted.show(named)} in "
            f"{untrusted.clip(folder)}"
        )
    return plain


def _t5(pieces, settings, _):
    count = settings.get("extra_ids", 100)
    if type(count) is not int or count > MAX_EXTRA_IDS:
        json_files.refuse("'extra_ids'", f"an integer up to {MAX_EXTRA_IDS}", count)
    count = max(0, count)
    extra = [f"<extra_id_{number}>" for number in reversed(range(count))]
    template = {"middle": ["</s>"], "end": ["</s>"]}
    return {"vocabulary": [*pieces, *extra], "template": template}


def _xlm_roberta(pieces, settings, _):
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:], "<mask>"]
    return {"vocabulary": vocabulary, "template": _PAIRS, "special_tokens": _FRAMED}


def _camembert(pieces, settings, _):
    # The <s> and </s> that are used are those of the model file, after these five.
    first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    vocabulary = [*first, *pieces[1:], "<mask>"]
    return {"vocabulary": vocabulary, "template": _PAIRS, "special_tokens": _FRAMED}


def _llama(pieces, settings, _):
    start = ["<s>"] if settings.get("add_bos_token", True) else []
    end = ["</s>"] if settings.get("add_eos_token", False) else []
    template = {"start": start, "middle": [*end, *start], "end": end}
    return {"vocabulary": [*pieces], "template": template}


def _marian(pieces, settings, folder):
    ids = json_files.read_json(folder / "vocab.json")
    if any(type(number) is not int for number in ids.values()):
        json_files.refuse("the ids of the vocabulary", "integers", ids)
    vocabulary = sorted(ids, key=ids.__getitem__)
    template = {"end": ["</s>"], "middle": []}
    return {"vocabulary": vocabulary, "template": template}


_FAMILIES = {
    "t5": _t5,
    "mt5": _t5,
    "xlmroberta": _xlm_roberta,
    "camembert": _camembert,
    "llama": _llama,
    "mistral": _llama,
    "marian": _marian,
}
