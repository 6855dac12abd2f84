"""The post-processors of a `tokenizer.json`: special tokens, and trimmed offsets."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from keras_attention.text import framing, sections
from keras_attention.text.json_files import refuse

_PARTS = ("start", "middle", "end")


class Framing(NamedTuple):
    """The template, whether offsets are trimmed, and whether a space was added."""

    template: framing.Template
    trims: bool
    adds_space: bool


def read(section: Any, ids: Mapping[str, int]) -> Framing:
    """Returns what a post-processor says.

    Args:
        section: The post-processor, or `None`.
        ids: `{token: id}`.
    """
    found = Framing(framing.Template(), False, False)
    known = {
        "BertProcessing": _bert,
        "ByteLevel": _byte_level,
        "RobertaProcessing": _roberta,
        "TemplateProcessing": _template,
    }
    for step in sections.steps(section, "processors"):
        read_step = sections.one_of(step, "post_processor", known)
        before = found
        found = read_step(step, found, ids)
        if any(before.template[:3]) and found.template != before.template:
            refuse("the post_processor", "one template", section)
    return found


def _byte_level(step, found, ids):
    adds, trims, _ = sections.entries(
        step, add_prefix_space=True, trim_offsets=True, use_regex=True
    )
    return found._replace(trims=True, adds_space=adds) if trims else found


def _ends(step, ids):
    """Returns the classifier and the separator of BERT's and RoBERTa's processing."""
    pairs = [step.get("cls"), step.get("sep")]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or ids.get(pair[0]) != pair[1]:
            refuse("a special token of the post_processor", "a token and its id", pair)
    return [pair[1] for pair in pairs]


def _bert(step, found, ids):
    sections.entries(step, cls=None, sep=None)
    first, separator = _ends(step, ids)
    template = framing.Template([first], [separator], [separator], has_segments=True)
    return found._replace(template=template)


def _roberta(step, found, ids):
    *_, trims, adds = sections.entries(
        step, cls=None, sep=None, trim_offsets=True, add_prefix_space=True
    )
    first, separator = _ends(step, ids)
    template = framing.Template([first], [separator, separator], [separator])
    trims_now = {"trims": True, "adds_space": adds} if trims else {}
    return found._replace(template=template, **trims_now)


def _template(step, found, ids):
    single, pair, tokens = sections.entries(step, single=[], pair=[], special_tokens={})
    known = {}
    for name, token in tokens.items():
        numbers = [ids.get(one) for one in token.get("tokens", [])]
        if not numbers or numbers != token.get("ids"):
            refuse("the ids of the post_processor", "the vocabulary's", token)
        known[name] = numbers
    one, two = _pieces(single, known, step), _pieces(pair, known, step)
    names = [[name for name, _, _ in piece] for piece in (one, two)]
    if [name for name in names[0] if name] != ["A"]:
        refuse("the template of the post_processor", "one A", single)
    if [name for name in names[1] if name] != ["A", "B"]:
        refuse("the template of the post_processor", "A and then B", pair)
    a, b = names[1].index("A"), names[1].index("B")
    at = names[0].index("A")
    parts = [two[:a], two[a + 1 : b], two[b + 1 :]]
    start, middle, end = (
        [number for _, numbers, _ in part for number in numbers] for part in parts
    )
    ends = [
        [number for _, numbers, _ in part for number in numbers]
        for part in (one[:at], one[at + 1 :])
    ]
    if [start, end] != ends:
        expected = "the same tokens around one text and around two"
        refuse("the template of the post_processor", expected, step)
    kinds = [kind for _, _, kind in two]
    is_second = kinds == [0] * b + [1] * (len(two) - b)
    has_segments = is_second and bool(middle)
    return found._replace(template=framing.Template(start, middle, end, has_segments))


def _pieces(parts, known, step):
    """Returns the name of the text (or none), the ids and the segment of each part."""
    found = []
    for part in parts:
        ((kind, piece),) = part.items()
        name, segment = piece.get("id"), piece.get("type_id", 0)
        if kind == "Sequence" and name in {"A", "B"}:
            found.append((name, [], segment))
        elif kind == "SpecialToken" and name in known:
            found.append(("", known[name], segment))
        else:
            refuse("a part of the template", "A, B or a special token", part)
    return found
