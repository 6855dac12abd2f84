"""Write `keras_attention/text/codes/unicode_sets.py` from Hugging Face's tokenizers.

The Rust crate is run on every code point, so the tables hold what it does, which may
differ from any version of Unicode. Run this script after an upgrade of `tokenizers`
with another normaliser, which the test of all code points finds:

    python tests/text/make_unicode_sets.py
"""

import pathlib
import textwrap
import unicodedata

from tokenizers import normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).resolve()
TARGET = HERE.parents[2] / "keras_attention" / "text" / "codes" / "unicode_sets.py"
LINE = 88
HANGUL = range(0xAC00, 0xD7A4)
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
# Canonical combining classes 230 and 1: one that sorts late, one that sorts early.
LATE_MARK, EARLY_MARK = "\u0301", "\u0334"


def bert_normalizer(**chosen):
    """A BertNormalizer with every step off but the chosen ones."""
    steps = {
        "clean_text": False,
        "handle_chinese_chars": False,
        "strip_accents": False,
        "lowercase": False,
    }
    return normalizers.BertNormalizer(**{**steps, **chosen}).normalize_str


def sets_of_code_points():
    """The seven properties, each as a sorted list of code points."""
    clean = bert_normalizer(clean_text=True)
    chinese = bert_normalizer(handle_chinese_chars=True)
    strip = bert_normalizer(strip_accents=True)
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    found = {
        "controls": [],
        "whitespace": [],
        "punctuation": [],
        "chinese": [],
        "marks": [],
        "starter_marks": [],
    }
    for code in CODE_POINTS:
        char = chr(code)
        if clean(f"a{char}b") == "ab":
            found["controls"].append(code)
        words = [word for word, _ in split(f"a{char}b")]
        if words == ["a", "b"]:
            found["whitespace"].append(code)
        elif words == ["a", char, "b"]:
            found["punctuation"].append(code)
        if chinese(char) == f" {char} ":
            found["chinese"].append(code)
        if strip(char) == "":
            found["marks"].append(code)
            if not is_reordered(char):
                found["starter_marks"].append(code)
    return found


def is_reordered(char):
    """Whether the crate moves the character when it sorts combining marks."""
    nfd = normalizers.NFD().normalize_str
    alone = nfd(char)
    before, after = nfd(char + EARLY_MARK), nfd(LATE_MARK + char)
    return before != alone + EARLY_MARK or after != LATE_MARK + alone


def kept_nonstarters(marks):
    """Code points that are sorted with the marks, but not stripped: {code: class}."""
    dropped = set(marks)
    classes = {}
    for code in CODE_POINTS:
        if code in dropped or code in HANGUL or not is_reordered(chr(code)):
            continue
        # Letters with accents move too: they decompose and their accent moves.
        if normalizers.NFD().normalize_str(chr(code)) == chr(code):
            classes[code] = unicodedata.combining(chr(code))
    nfd = normalizers.NFD().normalize_str
    for one, class_of_one in classes.items():
        for other, class_of_other in classes.items():
            moved = nfd(chr(one) + chr(other)) != chr(one) + chr(other)
            assert moved == (class_of_one > class_of_other), (one, other)
    return classes


def mapping(normalize, skip=()):
    """{code: text} of the code points that a normaliser changes (not to '')."""
    pairs = ((code, normalize(chr(code))) for code in CODE_POINTS if code not in skip)
    return {code: text for code, text in pairs if text not in ("", chr(code))}


def write_ranges(codes):
    runs = []
    for code in codes:
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return " ".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in runs)


def write_mapping(texts):
    """`start/step>target,target*times`: the sources are start, start + step, …"""
    runs = []
    codes = sorted(texts)
    for place, code in enumerate(codes):
        run = runs[-1] if runs else None
        if run and len(run) == 1 and code - run[0] in (1, 2):
            following = codes[place + 1] if place + 1 < len(codes) else None
            if code - run[0] == 1 or following != code + 1:
                run.append(code)
                continue
        elif run and len(run) > 1 and code - run[-1] == run[1] - run[0]:
            run.append(code)
            continue
        runs.append([code])
    return " ".join(write_run(run, texts) for run in runs)


def write_run(run, texts):
    """One run; equal targets, or targets that increase with the source, are joined."""
    step = run[1] - run[0] if len(run) > 1 else 1
    targets = []  # [source, text, climb, times]
    for code in run:
        if not targets or not extend(targets[-1], texts[code], step):
            targets.append([code, texts[code], None, 1])
    words, length = [], LINE
    for source, text, climb, times in targets:
        codes = "+".join(f"{ord(char):x}" for char in text)
        target = codes + (f"{climb}{times}" if times > 1 else "")
        length += len(target) + 1
        if length > LINE:
            start = f"{source:x}" + (f"/{step}" if step > 1 else "") + ">"
            words.append(start + target)
            length = len(words[-1])
        else:
            words[-1] += "," + target
    return " ".join(words)


def extend(target, text, step):
    _, first, climb, times = target
    climbs = []
    if text == first:
        climbs.append("*")
    if len(text) == len(first) == 1 and ord(text) == ord(first) + step * times:
        climbs.append("^")
    if not climbs or climb not in (None, climbs[0]):
        return False
    target[2:] = climbs[0], times + 1
    return True


def main():
    found = sets_of_code_points()
    strip = bert_normalizer(strip_accents=True)
    lower = bert_normalizer(lowercase=True)
    kept = kept_nonstarters(found["marks"])
    values = {name.upper(): write_ranges(codes) for name, codes in found.items()}
    values["KEPT_NONSTARTERS"] = " ".join(f"{c:x}>{kept[c]:x}" for c in sorted(kept))
    values["DECOMPOSED"] = write_mapping(mapping(strip, skip=HANGUL))
    values["LOWERED"] = write_mapping(mapping(lower))
    source = TARGET.read_text(encoding="utf-8")
    head, _ = source.split("# --- generated ---\n")
    parts = [head, "# --- generated ---\n"]
    for name, value in values.items():
        lines = textwrap.wrap(
            value, LINE, break_on_hyphens=False, break_long_words=False
        )
        parts.append(f'_{name} = """\n' + "\n".join(lines) + '\n"""\n')
    TARGET.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
