"""Real text that every Python contains, which the demo searches."""

import re


def python_passages() -> tuple[list[str], list[str]]:
    """Returns paragraphs of Python's documentation topics.

    Returns:
        `(topics, passages)`: the topic of each passage, and the passages.
    """
    from pydoc_data.topics import topics

    found: dict[str, str] = {}
    for topic, text in topics.items():
        for paragraph in re.split(r"\n\s*\n", text):
            passage = " ".join(paragraph.split())
            is_code = ">>>" in passage or "::=" in passage or " = " in passage
            if not is_code and 120 <= len(passage) <= 600:
                found.setdefault(passage, topic)
    return list(found.values()), list(found)
