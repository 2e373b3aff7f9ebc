"""The names that clients see: the model's own where possible."""

import re
from collections.abc import Iterable

_TAKEN = frozenset(("lengths", "read_slots", "write_slots", "finite"))


def public_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a name for each, of letters, digits, '_', '.' and '-', that nothing else in the served graph has."""
    used = set(taken)
    found = {}
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-") or "tensor"
        if base in _TAKEN or base.startswith(("state.", "arena.", "arena_out.")):
            base = f"model_{base}"
        public, count = base, 2
        while public in used:
            public, count = f"{base}_{count}", count + 1
        used.add(public)
        found[name] = public
    return found
