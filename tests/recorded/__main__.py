"""Record the answers of a tree's service, or compare two trees: python -m tests.recorded."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from benchmarks.older_cards import keep_known_fields
from tests.recorded.artefacts import export_all
from tests.recorded.families import FAMILIES
from tests.recorded.player import ANSWERS, difference, play, written
from tests.recorded.server import HERE, NotStartedError


def main(
    tree: Annotated[list[Path] | None, typer.Option(help="tree whose service is played; give two to compare")] = None,
    write: Annotated[bool, typer.Option(help="record the answers anew")] = False,
    family: Annotated[list[str] | None, typer.Option(help="play only these families")] = None,
) -> None:
    """Play every request and compare the answers with the recorded ones, or with those of another tree."""
    trees = [path.resolve() for path in tree or [HERE]]
    if len(trees) > 2 or (write and len(trees) > 1):
        raise typer.BadParameter("expected one tree, or two to compare")
    names = family or list(FAMILIES)
    counts: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder, Progress(transient=True) as progress:
        task = progress.add_task("export", total=len(names))
        artefacts = export_all(Path(folder) / "artifacts")
        if tree:
            keep_known_fields(Path(folder), *trees)
        for name in names:
            progress.update(task, description=name)
            try:
                exchanges, *others = [play(FAMILIES[name], each, artefacts) for each in trees]
            except NotStartedError as exc:  # an earlier version may not know the settings of a family
                failures.append(f"{name}: {exc}")
                continue
            counts.update(each.operation for each in exchanges)
            found, file = written(exchanges), ANSWERS / f"{name}.txt"
            if write:
                ANSWERS.mkdir(exist_ok=True)
                file.write_text(found)
            elif others:
                if text := difference(found, written(others[0]), (str(trees[0]), str(trees[1]))):
                    failures.append(f"{name}: {text}")
            elif text := difference(file.read_text(), found):
                failures.append(f"{name}: {text}")
            progress.advance(task)
    for operation, count in sorted(counts.items()):
        print(f"{count:5} {operation}")
    print(f"{counts.total():5} requests, {len(names)} families")
    for text in failures:
        print(f"\n{text}")
    raise typer.Exit(1 if failures else 0)


if __name__ == "__main__":
    typer.run(main)
