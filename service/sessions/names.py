"""Names that clients choose for their sessions."""

NAME_LENGTH = 128
"""Greatest length of a name, in characters."""
NUMBER_PREFIX = "\x1f"
"""First character of the name of a session that a client identifies by a number; no text may begin with it.

So the number 7 and the text "7" are different names.
"""


def name_of_number(number: int) -> str:
    """Return the name of a session that a client identifies by a number."""
    return f"{NUMBER_PREFIX}{number}"
