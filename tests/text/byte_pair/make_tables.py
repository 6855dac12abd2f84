"""Write `keras_attention/text/byte_pair/tables.py` from Hugging Face's tokenizers.

The Rust crate is run on every code point, so the tables hold what it does, which may
differ from any version of Unicode:

    python tests/text/byte_pair/make_tables.py
"""

import pathlib
import textwrap

from tokenizers import pre_tokenizers

HERE = pathlib.Path(__file__).resolve()
TARGET = HERE.parents[3] / "keras_attention" / "text" / "byte_pair" / "tables.py"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def sets_of_code_points():
    """Returns the letters, numbers and white space of GPT-2's regular expression."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = {"letters": [], "numbers": [], "whitespace": []}
    for code in CODE_POINTS:
        char = chr(code)
        if len(level.pre_tokenize_str("a" + char)) == 1:
            found["letters"].append(code)
        elif len(level.pre_tokenize_str("1" + char)) == 1:
            found["numbers"].append(code)
        elif len(level.pre_tokenize_str("!" + char)) == 2:
            found["whitespace"].append(code)
    return found


def ranges(codes):
    """Returns hexadecimal ranges, such as `21-2f 3a`."""
    parts, first = [], None
    for place, code in enumerate(codes):
        if first is None:
            first = code
        if place + 1 == len(codes) or codes[place + 1] != code + 1:
            parts.append(f"{first:x}" + (f"-{code:x}" if code > first else ""))
            first = None
    return " ".join(parts)


def main():
    kept, line, _ = TARGET.read_text(encoding="utf-8").partition("# generated\n")
    for name, codes in sets_of_code_points().items():
        lines = textwrap.fill(ranges(codes), 86)
        line += f'\n_{name.upper()} = """\\\n{lines}"""\n'
    TARGET.write_text(kept + line, encoding="utf-8")


if __name__ == "__main__":
    main()
