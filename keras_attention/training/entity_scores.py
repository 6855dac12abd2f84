"""Scores of predicted entities."""

from collections.abc import Sequence


def entity_scores(
    expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Returns precision, recall and F1 of whole entities in BIO tags, as CoNLL does.

    An entity is correct if its words and its type are correct. An `I-` that follows no
    word of its type begins an entity.

    Reference: Tjong Kim Sang & De Meulder, "Introduction to the CoNLL-2003 Shared
    Task", 2003.

    Args:
        expected: The correct tags, one per word of each sentence, such as `O`,
            `B-person` and `I-person`.
        found: The predicted tags, in the same form.

    Returns:
        A dict of `precision`, `recall` and `f1`. A score whose divisor is 0 is 0.

    Example:
    >>> expected = [["B-person", "I-person", "O", "B-place"]]
    >>> found = [["B-person", "I-person", "O", "B-person"]]
    >>> ka.entity_scores(expected, found)
    {'precision': 0.5, 'recall': 0.5, 'f1': 0.5}
    """
    if [len(tags) for tags in expected] != [len(tags) for tags in found]:
        raise ValueError(
            "`expected` and `found` must both have one tag per word. Received: "
            f"{len(expected)} and {len(found)} sentences, of "
            f"{sum(map(len, expected))} and {sum(map(len, found))} words"
        )
    wanted = {(i, *one) for i, tags in enumerate(expected) for one in _entities(tags)}
    given = {(i, *one) for i, tags in enumerate(found) for one in _entities(tags)}
    correct = len(wanted & given)
    both = len(wanted) + len(given)
    return {
        "precision": correct / len(given) if given else 0.0,
        "recall": correct / len(wanted) if wanted else 0.0,
        "f1": 2 * correct / both if both else 0.0,
    }


def _entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns the `(type, first word, last word)` of each entity."""
    entities: list[tuple[str, int, int]] = []
    previous = "O"
    for index, tag in enumerate(tags):
        kind = tag[2:]
        if tag != "O":
            if tag.startswith("B-") or previous == "O" or previous[2:] != kind:
                entities.append((kind, index, index))
            else:
                entities[-1] = (kind, entities[-1][1], index)
        previous = tag
    return entities
