"""Names that clients choose for their sessions."""

NAME_LENGTH = 128
"""Most characters of a name."""
NUMBER_PREFIX = "\x1f"
"""Begins the name of a session that a client calls by a number; no name that is text may begin with it.

The number 7 and the text "7" are thus different names.
"""


def name_of_number(number: int) -> str:
    """Return the name of a session that a client calls by a number."""
    return f"{NUMBER_PREFIX}{number}"
