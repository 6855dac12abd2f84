"""Damages files and requests in a structured way, and checks what reading them does."""

import copy
import gc
import json
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

MEGABYTE = 1 << 20

# What JSON text may hold that no Python value is written as.
RAW = [
    "NaN",
    "-Infinity",
    "1e999",
    "-0",
    "9" * 30,
    "9" * 5000,
    "0.1e-400",
    "[" * 70 + "]" * 70,
    '{"a":' * 70 + "1" + "}" * 70,
    "[" * 100_000,
    '{"a": 1, "a": 2}',
    '{"type": "BPE", "type": "WordPiece"}',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0000"',
    '"\\u202e\\u2028"',
    "[" + "0," * 30_000 + "0]",
    "[" + "[]," * 30_000 + "[]]",
    '"' + "\\u001b" * 10_000 + '"',
    "tru",
    "",
]
NUMBERS = [0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63]
NUMBERS += [10**9, 10**12, 10**40, -(2**31), -(2**63), -(10**12)]
FRACTIONS = [1e300, 5e-324, 0.5, -0.0, 1.0, 1e9]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(NUMBERS)
    | st.sampled_from(FRACTIONS)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "..", "../x", "/x", "a/../../b", "\\\\x", "\x00", "\x1b[2J"])
    | st.sampled_from(["F32", "BF16", "I64", "F8_E4M3", "float32", "int64", "object"])
    | st.sampled_from(["bert", "gpt2", "llama", "t5", "$", "%s", "{0}", "x" * 9999])
    | st.sampled_from(["９", "é", "e\u0301", "\u202e", "👩‍👩‍👧‍👦", "\ufeff"])
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.just("type"), inner, max_size=3)
    ),
    max_leaves=5,
)


def _places_of(value, place=()):
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places_of(value[key], (*place, key))


def _at(value, place):
    for key in place:
        value = value[key]
    return value


@st.composite
def damaged_value(draw, base, most=4):
    """A copy of JSON data in which some values are replaced, moved, or removed."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places_of(value))
        if len(places) < 2:
            break
        *parents, last = draw(st.sampled_from(places[1:]))
        inner = _at(value, parents)
        kind = draw(
            st.sampled_from(["replace", "raw", "remove", "add", "move", "scale"])
        )
        if kind == "remove":
            del inner[last]
        elif kind == "add" and isinstance(inner, dict):
            name = draw(st.sampled_from(list(inner)) | st.text(max_size=3))
            inner[name + draw(st.sampled_from(["", "2", "\x00"]))] = draw(VALUES)
        elif kind == "add":
            inner.insert(last, draw(VALUES))
        elif kind == "move":  # a value that is right in another place
            inner[last] = copy.deepcopy(_at(value, draw(st.sampled_from(places))))
        elif kind == "scale" and type(inner[last]) in (int, float):
            inner[last] *= draw(st.sampled_from([-1, 0, 2, 3, 10**6, 0.5]))
        elif kind == "scale" and isinstance(inner[last], list | str):
            inner[last] = inner[last] * draw(st.sampled_from([0, 2, 50]))
        elif kind == "raw":
            inner[last] = f"\x01{draw(st.integers(0, len(RAW) - 1))}\x01"
        else:
            inner[last] = draw(VALUES)
    return value


def as_json(value):
    """JSON text, with the texts of `RAW` in their places."""
    text = json.dumps(value, ensure_ascii=False)
    for number, raw in enumerate(RAW):
        text = text.replace(f'"\\u0001{number}\\u0001"', raw)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged_json(draw, base):
    """JSON text of a damaged value; of one in ten, the bytes are damaged too."""
    data = as_json(draw(damaged_value(base)))
    return draw(damaged_bytes(data)) if draw(st.integers(0, 9)) == 0 else data


@st.composite
def damaged_bytes(draw, data, most=3):
    """Bytes of which a few are removed, replaced, repeated or added."""
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 9)))
        new = draw(st.binary(max_size=9) | st.just(data[at:end] * 3))
        data = data[:at] + new + data[end:]
    return data


def check(inputs, path, read, examples, most_seconds=1.0):
    """Writes each input to a file and requires that reading returns, or refuses it."""

    def load(data):
        path.write_bytes(data)
        try:
            read()
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return None

    check_call(inputs, load, examples, most_seconds)


def check_call(inputs, call, examples, most_seconds=1.0, part="Received:"):
    """Requires that each input is taken, or refused with a short error of ours.

    Args:
        inputs: A strategy.
        call: From an input to the text of its error, or `None`.
        examples: The number of inputs.
        most_seconds: The longest time of processor that one input may take; five times
            as long if it is taken.
        part: A text that each error must hold.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 100,
        database=None,
        verbosity=Verbosity.quiet,  # `run` prints the start of an input
        phases=[Phase.generate, *([Phase.shrink] if examples < 100 else [])],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def run(data):
        before = _start_of_peak()
        begin = time.process_time()
        try:
            text = call(data)
        except BaseException:
            print(f"The input: {data[:2000]!r}")
            raise
        seconds, grown = time.process_time() - begin, _peak() - before
        about = f"{seconds:.1f} s, {grown:,} bytes, {text!r:.3000}, by {data!r:.2000}"
        most = 5 * most_seconds if text is None else most_seconds
        assert seconds < most, about
        assert grown < 200 * MEGABYTE, about
        if text is not None:
            assert part in text, about
            assert len(text) <= 2000, about
            assert text.replace("\n", "").isprintable(), about

    gc.collect()
    run()


def _start_of_peak():
    """Begin to measure the largest memory of this process; return that of now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _peak()


def _peak():
    """The largest memory in use since `_start_of_peak`, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(x.split()[1]) << 10 for x in lines if x.startswith("VmHWM:"))
