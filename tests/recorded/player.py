"""Play families of requests on a tree's service, and compare the answers with those that were recorded."""

import difflib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.recorded.client import Client, Exchange
from tests.recorded.script import Family
from tests.recorded.server import Server, flag

ANSWERS = Path(__file__).parent / "answers"
"""The folder of the recorded answers, a text file for each family."""
_MOST_SHOWN = 3
_CONTEXT = 3


def play(family: Family, tree: Path, artefacts: Path, *, fast_path: bool = True) -> list[Exchange]:
    """Play a family's requests on the service of `tree`; without the fast path, FastAPI answers all of them.

    `artefacts` is a folder that `export_all` has written.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "artifacts"
        for model in family.models:
            shutil.copytree(artefacts / model, models / model)
        if family.prepare is not None:
            family.prepare(folder)
        flags = [text.format(folder=folder) for text in family.flags]
        if not fast_path:
            flags.append(flag(tree, "--no-(?:hot-lane|fast-path)"))
        with Server(tree, models, folder / "log", *flags) as server:
            client = Client(server, models, folder, artefacts.parent / f"{artefacts.name}-next")
            try:
                family.play(client)
            finally:
                client.close()
        return client.exchanges


def written(exchanges: Iterable[Exchange]) -> str:
    """Return exchanges as the text of a file of answers."""
    return "".join(
        f"=== {number} {each.operation} {each.status or ''}".rstrip() + f"\n{each.text}\n"
        for number, each in enumerate(exchanges, 1)
    )


def blocks(text: str) -> list[str]:
    """Split the text of a file of answers into its exchanges."""
    return [f"=== {block}" for block in f"\n{text}".split("\n=== ")[1:]]


def difference(expected: str, found: str, names: tuple[str, str] = ("recorded", "found")) -> str:
    """Return the first exchanges that differ, line by line; nothing where all are equal."""
    if expected == found:
        return ""
    before, after = blocks(expected), blocks(found)
    pairs = [(one, other) for one, other in zip(before, after, strict=False) if one.rstrip("\n") != other.rstrip("\n")]
    parts = [f"{len(pairs)} of {len(before)} exchanges differ"]
    if len(before) != len(after):
        parts[0] += f", and there are {len(after)} of them, not {len(before)}"
    for one, other in pairs[:_MOST_SHOWN]:
        lines = difflib.unified_diff(one.splitlines(), other.splitlines(), *names, lineterm="", n=_CONTEXT)
        parts.append("\n".join([one.splitlines()[0], *lines]))
    return "\n\n".join(parts)
