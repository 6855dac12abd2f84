"""How tokenizers split a text into words, and how they write bytes."""

from collections.abc import Mapping

GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
"""The pattern of GPT-2: contractions, words, numbers, signs and spaces."""


def byte_characters() -> Mapping[int, str]:
    """Returns `{byte: character}`, with which GPT-2's vocabulary writes bytes.

    Visible Latin-1 characters represent their own byte; the other bytes are represented
    by the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    names = {byte: chr(byte) for byte in visible}
    names.update({byte: chr(0x100 + place) for place, byte in enumerate(hidden)})
    return names
