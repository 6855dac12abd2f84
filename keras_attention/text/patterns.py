"""Regular expressions by which tokenizers split a text into words."""

GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
"""The pattern of GPT-2: contractions, words, numbers, signs and spaces."""
