"""The scenarios of the fault injection tests, one for each promise, with their small and large sizes."""

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
from tests.faults.churn import MAX_GROWTH, churn
from tests.faults.history import Kind, Report
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
    """One row of the table: a label, the value, its target, and whether that is reached."""

    label: str
    value: str
    target: str = ""
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One promise under test. `run` takes a temporary folder, the count, and a function that reports progress."""

    promise: str
    name: str
    unit: str
    small: int
    large: int
    run: Callable[[Path, int, Progress], list[Figure]]


def expect_none(label: str, wrong: list[Any]) -> Figure:
    """Return the row of a count that must be 0; if it is not, the first item is shown."""
    return Figure(label, f"{len(wrong)}: {wrong[0]}" if wrong else "0", "0", not wrong)


def run_loop(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine in a new uvloop event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _report_figures(report: Report) -> list[Figure]:
    """Return the rows of a report: its counts, and the violations by kind."""
    figures = [Figure(label, f"{report.counts[label]:,}") for label in sorted(report.counts) if label != "steps"]
    lost = report.of(Kind.LOST)
    duplicated = report.of(Kind.DUPLICATED)
    others = [each for each in report.violations if each.kind not in (Kind.LOST, Kind.DUPLICATED)]
    return [
        *figures,
        expect_none("lost", lost),
        expect_none("duplicated", duplicated),
        expect_none("other violations", others),
    ]


def steps_under_faults(folder: Path, steps: int, progress: Progress) -> list[Figure]:
    """P1: send numbered steps from clients of every kind through the proxy."""
    with ServiceProcess(export_accumulator(folder)) as service:
        result = run_loop(run_load(service.port, Load(steps), progress))
        error_lines = service.error_lines()
    counts, faults = result.report.counts, sum(result.faults.values())
    required = steps // 20
    figures = [
        Figure("steps answered", f"{counts['steps']:,}", f"≥ {steps * 9 // 10:,}", counts["steps"] >= steps * 9 // 10),
        Figure("faults injected", f"{faults:,}", f"≥ {required:,}", faults >= required),
    ]
    figures += [Figure(f"  {kind.value}", f"{count:,}") for kind, count in result.faults.most_common()]
    figures += [Figure("requests without a fault", f"{result.passed:,}"), *_report_figures(result.report)]
    return [
        *figures,
        expect_none("errors in the service's log", error_lines),
        Figure("seconds", f"{result.seconds:.0f}"),
    ]


def rolling_restarts(folder: Path, restarts: int, progress: Progress) -> list[Figure]:
    """P7: restart the service repeatedly by SIGTERM under load."""
    with ServiceProcess(export_accumulator(folder)) as service:
        result = run_loop(restart_under_load(service, restarts, progress=progress))
        error_lines = service.error_lines()
    clean = result.statuses[0]
    return [
        Figure("restarts with exit status 0", f"{clean}", f"{restarts}", clean == restarts),
        Figure("longest time from SIGTERM to exit", f"{max(result.stop_seconds):.2f} s", "< 15 s"),
        Figure("longest time until it listened again", f"{max(result.down_seconds):.2f} s"),
        Figure("steps answered", f"{result.report.counts['steps']:,}"),
        Figure("WebSockets closed with 1012 and the step at which to resume", f"{result.closed - len(result.wrong):,}"),
        expect_none("WebSockets that ended differently", result.wrong),
        *_report_figures(result.report),
        expect_none("errors in the service's log", error_lines),
        Figure("seconds", f"{result.seconds:.0f}"),
    ]


def damaged_snapshots(folder: Path, count: int, progress: Progress) -> list[Figure]:
    """P6: send damaged snapshots."""

    async def send() -> list[Figure]:
        async with in_process(Settings(artifacts=export_accumulator(folder))) as service:
            result = await damage_snapshots(service, count, progress=progress)
        figures = [Figure("damaged snapshots sent", f"{result.sent:,}", f"{count:,}", result.sent == count)]
        figures += [Figure(f"  refused as {code}", f"{number:,}") for code, number in result.codes.most_common()]
        return [*figures, expect_none("accepted, without an error code, or with an effect", result.wrong)]

    return run_loop(send())


def bounded_memory(folder: Path, sessions: int, progress: Progress) -> list[Figure]:
    """P8: open and end sessions, in the service and in one with a deliberate leak, which must be detected."""
    figures = []
    export_accumulator(folder)
    for planted in ("", "leak"):
        with ServiceProcess(folder, planted=planted) as service:
            result = run_loop(churn(service, sessions, sessions // 5, progress))
        value = f"{result.growth:.1%} of {result.warm / (1 << 20):.0f} MiB"
        if planted:
            figures.append(Figure("growth of a service that leaks", value, f"> {MAX_GROWTH:.0%}", not result.bounded))
        else:
            figures.append(Figure(f"growth over {sessions:,} sessions", value, f"≤ {MAX_GROWTH:.0%}", result.bounded))
    return figures


def exact_limits(folder: Path, races: int, progress: Progress) -> list[Figure]:
    """P13: open sessions concurrently in every way, near the limit."""

    async def race() -> list[Figure]:
        clock = FakeClock()
        settings = Settings(artifacts=export_accumulator(folder), max_sessions=LIMIT, idle_limit=IDLE_LIMIT)
        async with in_process(settings, clock) as service:
            result = await race_at_the_limit(service, clock, races, progress=progress)
        return [
            Figure("races", f"{result.races:,}", f"{races:,}", result.races == races),
            Figure("races that ended with a full table", f"{result.full:,}"),
            Figure("most sessions at any time", f"{result.most}", f"{LIMIT}", result.most == LIMIT),
            *[Figure(f"  answered {code}", f"{number:,}") for code, number in result.codes.most_common()],
            expect_none("limit exceeded, or unexpected answers", result.wrong),
        ]

    return run_loop(race())


def continued_sequences(folder: Path, count: int, progress: Progress) -> list[Figure]:
    """P5: compare interrupted sequences with uninterrupted ones; with more than 1,000 sequences, for all cells."""

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
            *[Figure(f"  {name}", f"{number:,}") for name, number in result.operations.most_common()],
            Figure(
                f"largest difference ({largest})",
                f"{result.largest:.1e}",
                f"≤ {TOLERANCE:g}",
                result.largest <= TOLERANCE,
            ),
        ]

    with torch_threads(1):
        return run_loop(compare())


SCENARIOS = (
    Scenario("P1", "faults", "steps", 12_000, 400_000, steps_under_faults),
    Scenario("P7", "restarts", "restarts", 3, 100, rolling_restarts),
    Scenario("P6", "snapshots", "snapshots", 500, 10_000, damaged_snapshots),
    Scenario("P13", "limits", "races", 500, 10_000, exact_limits),
    Scenario("P5", "sequences", "sequences", 192, 10_000, continued_sequences),
    Scenario("P8", "churn", "sessions", 800, 10_000, bounded_memory),
)
