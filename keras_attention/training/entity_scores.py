"""How well entities were found."""

from collections.abc import Sequence


def entity_scores(
    expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of whole entities in BIO tags, as CoNLL counts.

    An entity is right if its words and its type are. `I-` without a beginning of its
    type begins an entity.

    Reference: Tjong Kim Sang & De Meulder, "Introduction to the CoNLL-2003 Shared
    Task", 2003.

    Args:
        expected: A tag a word of each sentence: `O`, `B-person`, `I-person`.
        found: As many.

    Returns:
        `precision`, `recall` and `f1`; 0 where there is nothing to divide by.

    Example:
    >>> expected = [["B-person", "I-person", "O", "B-place"]]
    >>> found = [["B-person", "I-person", "O", "B-person"]]
    >>> ka.entity_scores(expected, found)
    {'precision': 0.5, 'recall': 0.5, 'f1': 0.5}
    """
    if [len(tags) for tags in expected] != [len(tags) for tags in found]:
        raise ValueError(
            "Both must have a tag for every word of every sentence. Received: "
            f"{len(expected)} and {len(found)} sentences, of "
            f"{sum(map(len, expected))} and {sum(map(len, found))} words"
        )
    wanted = {(i, *one) for i, tags in enumerate(expected) for one in _entities(tags)}
    given = {(i, *one) for i, tags in enumerate(found) for one in _entities(tags)}
    right = len(wanted & given)
    both = len(wanted) + len(given)
    return {
        "precision": right / len(given) if given else 0.0,
        "recall": right / len(wanted) if wanted else 0.0,
        "f1": 2 * right / both if both else 0.0,
    }


def _entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """`(type, first word, last word)` of each entity."""
    entities: list[tuple[str, int, int]] = []
    previous = "O"
    for place, tag in enumerate(tags):
        kind = tag[2:]
        if tag != "O":
            if tag.startswith("B-") or previous == "O" or previous[2:] != kind:
                entities.append((kind, place, place))
            else:
                entities[-1] = (kind, entities[-1][1], place)
        previous = tag
    return entities
