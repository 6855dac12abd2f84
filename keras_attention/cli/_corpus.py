"""Real text that every Python carries, for the demo to search in."""

import re


def python_passages() -> tuple[list[str], list[str]]:
    """Paragraphs of Python's documentation topics.

    Returns:
        `(topics, passages)`: the topic each passage is from, and the passages.
    """
    from pydoc_data.topics import topics

    found: dict[str, str] = {}
    for topic, text in topics.items():
        for paragraph in re.split(r"\n\s*\n", text):
            passage = " ".join(paragraph.split())
            is_prose = passage.count(" ") > 15 and "::=" not in passage
            if is_prose and 120 <= len(passage) <= 900:
                found.setdefault(passage, topic)
    return list(found.values()), list(found)
