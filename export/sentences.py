"""Text of users and other libraries, made fit for a sentence on a terminal: one line, printable, not too long."""

import re

_LONGEST = 300


def printable(text: object) -> str:
    """Return text on one line: white space as single spaces, unprintable characters as a replacement mark."""
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in " ".join(str(text).split()))


def clipped(text: str, longest: int = 80) -> str:
    """Return text, cut with an ellipsis where it is too long."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def foreign_error(exc: BaseException) -> str:
    """Return what another library says went wrong, without its marks, source files and return codes."""
    text = printable(exc)
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"Non-zero status code returned while running (\w+) node\. Name:'' Status Message: ", r"\1: ", text)
    text = re.sub(
        r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ", r"\1 '\2': ", text
    )
    # a path that ends in .cc:123, then the C++ function up to its closing bracket or name
    text = re.sub(r"\S*\.(?:cc|h|cpp|cu):\d+\s+(?:\S.*?\) ?(?:const )?)?", "", text)
    return clipped(text.strip(), _LONGEST)
