"""The parts of the fault test, each for one promise: how much of it is small or large, and what figures it gives."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from models.threads import torch_threads
from service.settings import Settings
from tests.fakes import FakeClock
from tests.faults.accumulator import export_accumulator
from tests.faults.churn import MOST_GROWTH, churn
from tests.faults.history import Kind, Verdict
from tests.faults.inprocess import in_process
from tests.faults.limits import IDLE_LIMIT, LIMIT, race_at_the_limit
from tests.faults.load import Load, run_load
from tests.faults.process import ServiceProcess
from tests.faults.restarts import restart_under_load
from tests.faults.sequences import (
    FEW_CELLS,
    TOLERANCE,
    continue_sequences,
    export_cells,
    streaming_cells,
)
from tests.faults.snapshots import damage_snapshots

Progress = Callable[[int], None]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was counted, and whether it is what it should be."""

    what: str
    value: str
    aim: str = ""
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """One promise under test. `run` takes a folder, how much is to be done, and whom to tell of it."""

    promise: str
    name: str
    unit: str
    small: int
    large: int
    run: Callable[[Path, int, Progress], list[Figure]]


def none_of(what: str, wrong: list[Any]) -> Figure:
    """Return the figure of something that must not be; the first of it is shown."""
    return Figure(what, f"{len(wrong)}: {wrong[0]}" if wrong else "0", "0", not wrong)


def run_loop(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run work on a uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _verdict(verdict: Verdict) -> list[Figure]:
    """Return what was counted and what was wrong."""
    figures = [Figure(what, f"{verdict.counts[what]:,}") for what in sorted(verdict.counts) if what != "steps"]
    lost = verdict.of(Kind.LOST)
    doubled = verdict.of(Kind.DOUBLED)
    others = [each for each in verdict.violations if each.kind not in (Kind.LOST, Kind.DOUBLED)]
    return [*figures, none_of("lost", lost), none_of("doubled", doubled), none_of("otherwise wrong", others)]


def steps_under_faults(folder: Path, steps: int, progress: Progress) -> list[Figure]:
    """P1: numbered steps by clients of every kind through the proxy."""
    with ServiceProcess(export_accumulator(folder)) as service:
        result = run_loop(run_load(service.port, Load(steps), progress))
        complaints = service.complaints()
    counts, faults = result.verdict.counts, sum(result.faults.values())
    least = steps // 20
    figures = [
        Figure("steps answered", f"{counts['steps']:,}", f"≥ {steps * 9 // 10:,}", counts["steps"] >= steps * 9 // 10),
        Figure("faults injected", f"{faults:,}", f"≥ {least:,}", faults >= least),
    ]
    figures += [Figure(f"  {kind.value}", f"{count:,}") for kind, count in result.faults.most_common()]
    figures += [Figure("requests past the proxy's faults", f"{result.passed:,}"), *_verdict(result.verdict)]
    return [
        *figures,
        none_of("errors in the service's log", complaints),
        Figure("seconds", f"{result.seconds:.0f}"),
    ]


def rolling_restarts(folder: Path, restarts: int, progress: Progress) -> list[Figure]:
    """P7: SIGTERM under load, again and again."""
    with ServiceProcess(export_accumulator(folder)) as service:
        result = run_loop(restart_under_load(service, restarts, progress=progress))
        complaints = service.complaints()
    clean = result.statuses[0]
    return [
        Figure("restarts with exit status 0", f"{clean}", f"{restarts}", clean == restarts),
        Figure("longest from SIGTERM to the end", f"{max(result.stop_seconds):.2f} s", "< 15 s"),
        Figure("longest until it listened again", f"{max(result.down_seconds):.2f} s"),
        Figure("steps answered", f"{result.verdict.counts['steps']:,}"),
        Figure("sockets closed with 1012 and the step to resume at", f"{result.closed - len(result.wrong):,}"),
        none_of("sockets that ended otherwise", result.wrong),
        *_verdict(result.verdict),
        none_of("errors in the service's log", complaints),
        Figure("seconds", f"{result.seconds:.0f}"),
    ]


def damaged_snapshots(folder: Path, count: int, progress: Progress) -> list[Figure]:
    """P6: damaged snapshots."""

    async def send() -> list[Figure]:
        async with in_process(Settings(artifacts=export_accumulator(folder))) as service:
            result = await damage_snapshots(service, count, progress=progress)
        figures = [Figure("damaged snapshots sent", f"{result.sent:,}", f"{count:,}", result.sent == count)]
        figures += [Figure(f"  refused as {code}", f"{number:,}") for code, number in result.codes.most_common()]
        return [*figures, none_of("accepted, untyped, or with effect", result.wrong)]

    return run_loop(send())


def bounded_memory(folder: Path, sessions: int, progress: Progress) -> list[Figure]:
    """P8: sessions come and go; a service that leaks must be told from one that does not."""
    figures = []
    export_accumulator(folder)
    for planted in ("", "leak"):
        with ServiceProcess(folder, planted=planted) as service:
            result = run_loop(churn(service, sessions, sessions // 5, progress))
        value = f"{result.growth:.1%} of {result.warm / (1 << 20):.0f} MiB"
        if planted:
            figures.append(Figure("growth of a twin that leaks", value, f"> {MOST_GROWTH:.0%}", not result.bounded))
        else:
            figures.append(Figure(f"growth over {sessions:,} sessions", value, f"≤ {MOST_GROWTH:.0%}", result.bounded))
    return figures


def exact_limits(folder: Path, races: int, progress: Progress) -> list[Figure]:
    """P13: sessions are opened at once in every way, around the limit."""

    async def race() -> list[Figure]:
        clock = FakeClock()
        settings = Settings(artifacts=export_accumulator(folder), max_sessions=LIMIT, idle_limit=IDLE_LIMIT)
        async with in_process(settings, clock) as service:
            result = await race_at_the_limit(service, clock, races, progress=progress)
        return [
            Figure("races", f"{result.races:,}", f"{races:,}", result.races == races),
            Figure("races that ended with a full table", f"{result.full:,}"),
            Figure("most sessions at any moment", f"{result.most}", f"{LIMIT}", result.most == LIMIT),
            *[Figure(f"  answered {code}", f"{number:,}") for code, number in result.codes.most_common()],
            none_of("limits passed, or other answers", result.wrong),
        ]

    return run_loop(race())


def continued_sequences(folder: Path, count: int, progress: Progress) -> list[Figure]:
    """P5: interrupted sequences against uninterrupted ones; all cells where there are sequences enough."""

    async def compare() -> list[Figure]:
        cells = streaming_cells() if count > 1000 else FEW_CELLS
        networks = export_cells(folder, cells)
        async with in_process(Settings(artifacts=folder)) as service:
            result = await continue_sequences(service, networks, count, progress=progress)
        largest = max(result.differences, key=lambda name: result.differences[name])
        return [
            Figure("sequences", f"{result.sequences:,}", f"{count:,}", result.sequences == count),
            Figure("cells", f"{len(cells)}"),
            Figure("steps", f"{result.steps:,}"),
            *[Figure(f"  {way}", f"{number:,}") for way, number in result.ways.most_common()],
            Figure(
                f"largest difference ({largest})",
                f"{result.largest:.1e}",
                f"≤ {TOLERANCE:g}",
                result.largest <= TOLERANCE,
            ),
        ]

    with torch_threads(1):
        return run_loop(compare())


PARTS = (
    Part("P1", "faults", "steps", 12_000, 400_000, steps_under_faults),
    Part("P7", "restarts", "restarts", 3, 100, rolling_restarts),
    Part("P6", "snapshots", "snapshots", 500, 10_000, damaged_snapshots),
    Part("P13", "limits", "races", 500, 10_000, exact_limits),
    Part("P5", "sequences", "sequences", 192, 10_000, continued_sequences),
    Part("P8", "churn", "sessions", 800, 10_000, bounded_memory),
)
