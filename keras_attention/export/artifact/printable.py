"""Makes names that somebody else chose safe to print in a log or on a terminal."""


def printable(text: object) -> str:
    """Returns the text with every control character escaped, line breaks too.

    A file name may contain line breaks, which would forge a line of a log, and escape
    sequences, which a terminal obeys.

    Args:
        text: The text, or a path.
    """
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in str(text)
    )
