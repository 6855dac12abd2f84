r"""Write `text/codes/unicode_categories.py` from Hugging Face's tokenizers.

The regular expression `\p{..}` of the crate is run on every code point, so the table
holds what it does, which may differ from any version of Unicode. It takes minutes:

    python tests/text/make_categories.py
"""

import pathlib
import textwrap

from tokenizers import Regex, pre_tokenizers

HERE = pathlib.Path(__file__).resolve()
PACKAGE = HERE.parents[2] / "keras_attention"
TARGET = PACKAGE / "text" / "codes" / "unicode_categories.py"
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
NAMES = (
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp "
    "Cc Cf Co"
)


def members(name):
    """Returns the code points of a category."""
    split = pre_tokenizers.Split(Regex(rf"\p{{{name}}}"), "removed", invert=True)
    found = split.pre_tokenize_str("".join(map(chr, CODES)))
    return sorted(code for _, (start, end) in found for code in CODES[start:end])


def ranges(codes):
    """Returns hexadecimal ranges, such as `21-2f 3a`, `/2` for every second one."""
    parts, at = [], 0
    while at < len(codes):
        sizes = {}
        for step in (1, 2):
            end = at
            while codes[end + 1 : end + 2] == [codes[end] + step]:
                end += 1
            sizes[step] = end - at
        step = max(sizes, key=sizes.__getitem__)
        last = codes[at + sizes[step]]
        span = f"{codes[at]:x}" + (f"-{last:x}" if sizes[step] else "")
        parts.append(span + "/2" * (step == 2 and sizes[step] > 0))
        at += sizes[step] + 1
    return " ".join(parts)


def main():
    text = TARGET.read_text(encoding="utf-8").partition("# generated\n")[0]
    text += '# generated\n_CATEGORIES = """\\\n'
    for name in NAMES.split():
        line = f"{name} {ranges(members(name))}"
        text += " \\\n".join(textwrap.wrap(line, 86, break_on_hyphens=False)) + "\n"
    TARGET.write_text(text + '"""\n', encoding="utf-8")


if __name__ == "__main__":
    main()
