"""Foreign files changed at random, each adopted and compared with its own run: python -m tests.export.mutants."""

import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.export.hidden_states import HIDDEN
from tests.export.judged import ADOPTED, WRONG, Judgement, Subject, judge, runs
from tests.export.mutations import MUTATIONS, Draft
from tests.export.torch_exports import TORCH
from tests.export.whole_sequences import AHEAD, WHOLE
from tests.export.zoo import ZOO

_MOST_MUTATIONS = 3
_ATTEMPTS = 40
_SECONDS = 120
# one normalises, of a single step, nothing but rounding; the others need options, or a tolerance, of their own
_NOT_MUTATED = {"activations_and_clip", "normalisation", "overlap", "overlap_in_time", "half", "half_transposed"}
_NOT_MUTATED |= {"names_that_are_taken", "scan_along_the_second_axis"}

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed file: the graph it was made from, and what was done to it."""

    base: str
    mutations: tuple[str, ...]
    subject: Subject


def export_torch(folder: Path) -> None:
    """Write what torch's exporters make of the modules to a folder: it takes seconds, and processes share it."""
    for name, module in TORCH.items():
        for exporter in module.exporters:
            onnx.save(module.exported(exporter, folder), folder / f"{name} {exporter}.onnx")


@cache
def bases(exported: Path | None = None) -> dict[str, Subject]:
    """Return the graphs that are changed, by name; with torch's exports where a folder holds them."""
    found = {}
    for name, case in (HIDDEN | AHEAD | WHOLE).items():
        lengths = ("lengths",) if name == "lengths" else ()
        if name not in _NOT_MUTATED:
            found[name] = Subject(case.model(), {"x": case.axis}, _pairs(case.text), lengths)
    for name, graph in ZOO.items():
        if name not in _NOT_MUTATED:
            model = graph.model()
            axes = {one.name: axis for one in model.graph.input for axis in _time_axis(one) if graph.native}
            found[f"zoo {name}"] = Subject(model, axes, graph.states, options=graph.options)
    for file in sorted(exported.glob("* *.onnx")) if exported is not None else ():
        found[f"torch {file.stem}"] = Subject(onnx.load(file), {"x": TORCH[file.stem.split()[0]].axis})
    return found


def _pairs(text: str) -> dict[str, str]:
    return {
        before: after for before, after in (("h0", "hn"), ("c0", "cn")) if f" {before}" in text and f" {after}" in text
    }


def _time_axis(value: object) -> Iterator[int]:
    dims = [dim.dim_param for dim in value.type.tensor_type.shape.dim]  # type: ignore[attr-defined]
    times = [axis for axis, dim in enumerate(dims) if dim in ("t", "frames")]
    # of the graph whose names say nothing
    yield from times or ([1] if dims[:2] == ["a", "b"] else [])


def mutant(seed: int, number: int, exported: Path | None = None) -> Mutant:
    """Return the mutant of a number: a graph with one to three changes, which still runs."""
    random = np.random.default_rng([seed, number])
    subjects = bases(exported)
    names = list(subjects)
    while True:
        base = names[int(random.integers(len(names)))]
        draft = Draft.of(subjects[base], random)
        wanted, done = int(random.integers(1, _MOST_MUTATIONS + 1)), list[str]()
        for _ in range(_ATTEMPTS):
            name = draft.pick(MUTATIONS)
            if name not in done and MUTATIONS[name](draft):
                done.append(name)
            if len(done) == wanted:
                break
        if done and runs(draft.subject()):
            return Mutant(base, tuple(done), draft.subject())


def judged(seed: int, number: int, exported: Path | None = None) -> tuple[str, Judgement]:
    """Return what a mutant is, in words, and what became of it."""
    made = mutant(seed, number, exported)
    with tempfile.TemporaryDirectory() as folder:
        return f"{made.base}: {', '.join(made.mutations)}", judge(made.subject, Path(folder))


def _kill(pid: int | None) -> None:
    """End a process and those that it has started, as `adopt` runs in one of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        _kill(int(child))
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def judge_all(seed: int, start: int, count: int, exported: Path | None = None) -> Iterator[tuple[int, str, Judgement]]:
    """Yield what became of each mutant, judged in a process of its own, whose end or silence is a fault as well."""
    number = start
    while number < start + count:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        waiting = [
            (one, pool.submit(judged, seed, one, exported)) for one in range(number, min(number + 500, start + count))
        ]
        for number, future in waiting:
            try:
                words, found = future.result(timeout=_SECONDS)
            except (BrokenProcessPool, TimeoutError) as exc:
                reason = "no answer" if isinstance(exc, TimeoutError) else "the process ended"
                yield number, f"mutant {number}", Judgement(WRONG, reason)
                for process in list((pool._processes or {}).values()):
                    _kill(process.pid)
                break
            except Exception as exc:  # in the test itself
                yield number, f"mutant {number}", Judgement(WRONG, f"not judged: {type(exc).__name__}", str(exc))
            else:
                yield number, words, found
        pool.shutdown(wait=True, cancel_futures=True)
        number += 1


@app.command()
def main(
    count: Annotated[int, typer.Option(help="How many mutants to judge.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="The random seed.")] = 0,
    start: Annotated[int, typer.Option(help="The number of the first mutant.", min=0)] = 0,
    save: Annotated[Path | None, typer.Option(help="A folder for the files of those that are wrong.")] = None,
) -> None:
    """Change foreign files at random, adopt each, and compare what is served with the file's run over the sequence.

    Exit status 1: a file was served wrong, or ended in a traceback.
    """
    console = Console()
    counts: Counter[tuple[str, str]] = Counter()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[wrong]} wrong"))
    wrong = 0
    with Progress(*columns, console=console) as progress, tempfile.TemporaryDirectory() as folder:
        task = progress.add_task("mutants", total=count, wrong=0)
        exported = Path(folder)
        export_torch(exported)
        for number, words, found in judge_all(seed, start, count, exported):
            counts[found.result, found.reason] += 1
            wrong += found.result == WRONG
            progress.update(task, advance=1, wrong=wrong)
            if found.result == WRONG:
                text = f"WRONG {number} {words}: {found.reason} {found.error:.2g} {found.message[:300]}"
                progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
                if save is not None:
                    save.mkdir(parents=True, exist_ok=True)
                    onnx.save(mutant(seed, number, exported).subject.model, save / f"{seed}-{number}.onnx")
    table = Table(title=f"{count} mutants, seed {seed}", title_justify="left")
    for column in ("result", "reason", "mutants"):
        table.add_column(column, justify="right" if column == "mutants" else "left")
    for (result, reason), many in sorted(counts.items(), key=lambda item: (item[0][0], -item[1])):
        table.add_row(result, reason or ("as its own run" if result == ADOPTED else ""), str(many))
    console.print(table)
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
