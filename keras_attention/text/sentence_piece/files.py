"""Reads folders of SentencePiece models into arguments of `SentencePieceTokenizer`.

Their ids are not always those of the model file: each family puts its special tokens in
places of its own.
"""

import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_attention.text.byte_pair import files as byte_files
from keras_attention.text.json_files import Path, read_json

SPECIAL = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm")
_FRAMED = {"cls": "<s>", "sep": "</s>"}
_PAIRS = {"start": ["<s>"], "middle": ["</s>", "</s>"], "end": ["</s>"]}


def read_model(path: Path) -> bytes:
    """The bytes of a model file."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise FileNotFoundError(
            "The model of SentencePiece is a .model or .spm file. Give its path. "
            f"Received: model={str(path)!r}: {error.strerror}"
        ) from error


def llama2c_model(path: Path) -> bytes:
    """The SentencePiece model behind a `tokenizer.bin` of llama2.c.

    The file holds score and text of each piece; what it leaves out is the same for all
    models of Llama: BPE, bytes for what has no piece, texts as they are.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2 as messages
    except ImportError as error:
        raise ImportError(
            "Reading a tokenizer of llama2.c needs sentencepiece. Install it: pip "
            'install "keras-attention[train-tokenizer]". Received: no module '
            "sentencepiece"
        ) from error
    pieces = list(_llama2c_pieces(read_model(path), path))
    model: Any = messages.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    kinds = {0: 2, 1: 3, 2: 3}  # unknown, control; 6 is a byte, 1 is text
    for number, (score, text) in enumerate(pieces):
        kind = kinds.get(number, 6 if number < 3 + 256 else 1)
        piece = text.strip() if number < 3 else text.replace(" ", "\u2581")
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()


def _llama2c_pieces(data: bytes, path: Path) -> Iterator[tuple[float, str]]:
    place = 4  # behind the length of the longest piece
    while place < len(data):
        try:
            score, size = struct.unpack_from("<fi", data, place)
            place += 8 + size
            text = data[place - size : place].decode()
            if size < 1 or place > len(data):
                raise ValueError(f"a piece of {size} bytes")
        except (struct.error, ValueError) as error:
            raise ValueError(
                "This is no tokenizer of llama2.c: score, length and text of each "
                f"piece. Give its tokenizer.bin. Received: {path}: {error}"
            ) from error
        yield score, text


def model_file(folder: pathlib.Path) -> pathlib.Path | None:
    """The model file of a folder, or `None`."""
    found = [folder / name for name in FILES if (folder / name).is_file()]
    return found[0] if found else None


def read_folder(
    folder: pathlib.Path, pieces_of: Callable[[bytes], list[str]]
) -> dict[str, Any]:
    """The constructor's arguments.

    Args:
        folder: See `SentencePieceTokenizer.from_folder`.
        pieces_of: The pieces of a model's bytes.
    """
    path = model_file(folder)
    if path is None:
        raise FileNotFoundError(
            f"A folder of SentencePiece holds one of {', '.join(FILES)}. Give the "
            f"folder of a downloaded model. Received: folder={str(folder)!r}"
        )
    settings = _json(folder / "tokenizer_config.json")
    kind = _kind(folder, settings)
    model = read_model(path)
    options = _FAMILIES[kind](pieces_of(model), settings, folder)
    _append_added(options["vocabulary"], settings, folder)
    given = byte_files.special_tokens(settings)
    known = {**SPECIAL, **options.get("special_tokens", {}), **given}
    have = set(options["vocabulary"])
    length = settings.get("model_max_length") or 10**7
    return {
        **options,
        "model": model,
        "special_tokens": {
            role: token for role, token in known.items() if token in have
        },
        "max_length": None if length > 10**6 else int(length),
        "padding_side": settings.get("padding_side") or "right",
        "truncation_side": settings.get("truncation_side") or "right",
    }


def _append_added(vocabulary, settings, folder):
    """Tokens that were added behind the vocabulary; they are not found in raw text."""
    for number, token in sorted(
        (int(n), t["content"])
        for n, t in settings.get("added_tokens_decoder", {}).items()
    ):
        if number == len(vocabulary):
            vocabulary.append(token)
        elif number > len(vocabulary) or vocabulary[number] != token:
            raise ValueError(
                "This tokenizer has a token where its family has another, so its ids "
                "are not known. Give vocabulary and template to SentencePieceTokenizer "
                f"yourself. Received: {token!r} as id {number} of {len(vocabulary)} in "
                f"{folder}"
            )


def files_of(
    pieces: list[str], vocabulary: list[str], template: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The class, the settings, the name of the model file and further files.

    Args:
        pieces: Of the model file.
        vocabulary: Of the tokenizer.
        template: Of the tokenizer.

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
            model = {"t5": FILES[0], "llama": FILES[2]}.get(family, FILES[1])
            return {"class": name, "settings": settings, "model": model}
    if wanted == {"end": ["</s>"]}:
        ids = {token: number for number, token in enumerate(vocabulary)}
        marian = {"class": "MarianTokenizer", "settings": {}, "model": FILES[3]}
        return {**marian, "vocab.json": ids}
    raise ValueError(
        "No tokenizer of transformers has these ids and special tokens, so it cannot "
        "be written as a folder. Save the model as .keras, which holds any. Received: "
        f"template={dict(template)}, {len(vocabulary)} tokens over {len(pieces)} pieces"
    )


def _json(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _kind(folder: pathlib.Path, settings: Mapping[str, Any]) -> str:
    """The family by the name of its class, else by the type of the model."""
    config = _json(folder / "config.json")
    named = settings.get("tokenizer_class") or config.get("model_type") or ""
    plain = named.removesuffix("Fast").removesuffix("Tokenizer").lower()
    plain = plain.replace("-", "").replace("_", "")
    if plain not in _FAMILIES:
        raise ValueError(
            "Where this family puts its special tokens is not known; supported: "
            f"{', '.join(sorted(_FAMILIES))}. Give its vocabulary and template to "
            f"SentencePieceTokenizer yourself. Received: {named!r} in {folder}"
        )
    return plain


def _t5(pieces, settings, _):
    count = max(0, settings.get("extra_ids", 100))
    extra = [f"<extra_id_{number}>" for number in reversed(range(count))]
    template = {"middle": ["</s>"], "end": ["</s>"]}
    return {"vocabulary": [*pieces, *extra], "template": template}


def _xlm_roberta(pieces, settings, _):
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:], "<mask>"]
    return {"vocabulary": vocabulary, "template": _PAIRS, "special_tokens": _FRAMED}


def _camembert(pieces, settings, _):
    # Its own <s> and </s> are those of the model file, behind four places.
    first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    vocabulary = [*first, *pieces[1:], "<mask>"]
    return {"vocabulary": vocabulary, "template": _PAIRS, "special_tokens": _FRAMED}


def _llama(pieces, settings, _):
    start = ["<s>"] if settings.get("add_bos_token", True) else []
    end = ["</s>"] if settings.get("add_eos_token", False) else []
    template = {"start": start, "middle": [*end, *start], "end": end}
    return {"vocabulary": [*pieces], "template": template}


def _marian(pieces, settings, folder):
    ids = read_json(folder / "vocab.json")
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
