"""The small form of every part of the fault test holds, and a service with a fault of its own fails it."""

from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from tests.faults.__main__ import app, chosen
from tests.faults.accumulator import export_accumulator
from tests.faults.history import Kind
from tests.faults.load import Load, LoadResult, run_load
from tests.faults.parts import PARTS, Part, run_loop
from tests.faults.process import ServiceProcess
from tests.faults.proxy import Fault
from tests.faults.walk import MOST_INPUTS, Walk

QUICK = {"snapshots", "limits"}
"""The parts that send no load to a process."""


def marked(part: Part) -> object:
    """Return a part as a parameter, marked slow where it is."""
    return pytest.param(part, id=part.name, marks=() if part.name in QUICK else pytest.mark.slow)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", [marked(part) for part in PARTS])
def test_a_small_form_holds(part: Part, tmp_path: Path) -> None:
    """Every figure is what it should be."""
    figures = part.run(tmp_path, part.small, lambda _: None)
    assert [figure for figure in figures if not figure.reached] == []


def load_against(planted: str, folder: Path, load: Load) -> tuple[LoadResult, dict[str, tuple[int, int]]]:
    """Send a load to a service with a fault; return what was found, and where the fault struck first."""
    with ServiceProcess(export_accumulator(folder), planted=planted) as service:
        result = run_loop(run_load(service.port, load))
    return result, service.struck()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_service_that_takes_retries_twice_is_found(tmp_path: Path) -> None:
    """Where a retry is taken as a new step, exactly the steps that were taken twice are reported."""
    load = Load(1_000, fleets=0, sockets=0, framed=0, extras=False, timeout=30, faults=(Fault.CUT,))
    result, struck = load_against("double", tmp_path, load)
    assert len(struck) > 10
    assert {each.session: (each.first, each.last) for each in result.verdict.violations} == struck
    assert {each.kind for each in result.verdict.violations} == {Kind.DOUBLED}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_service_that_drops_an_answered_step_is_found(tmp_path: Path) -> None:
    """Where a state does not hold a step that was answered, exactly these steps are reported."""
    load = Load(2_000, fleets=0, framed=0, extras=False)
    result, struck = load_against("drop", tmp_path, load)
    assert len(struck) > 10
    assert {each.session: (each.first, each.last) for each in result.verdict.violations} == struck
    assert {each.kind for each in result.verdict.violations} == {Kind.LOST}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_service_that_forgets_an_answered_step_is_found(tmp_path: Path) -> None:
    """Where a session goes back behind a step that was answered, that is reported, and for no other session."""
    load = Load(2_000, fleets=0, framed=0, rate=0.0, extras=False)
    result, struck = load_against("forget", tmp_path, load)
    assert len(struck) > 10
    assert {each.session: (each.first, each.last) for each in result.verdict.violations} == struck
    assert all(each.kind in (Kind.LOST, Kind.DOUBLED) for each in result.verdict.violations)


def test_inputs_do_not_come_twice() -> None:
    """Each input of a session is another one, a branch's too, and their sum is exact in float32."""
    walk = Walk("s", Random(1), MOST_INPUTS)
    drawn = [value for _ in range(20) for value in walk.draw()]
    branch = walk.branch("t", 3, 100)
    for each in (walk, branch):
        rest: list[int] = []
        while each.left > 0:
            rest += each.draw()
        assert len({*drawn, *rest}) == len(drawn) + len(rest)
        assert sum(drawn) + sum(rest) < 1 << 24


def test_a_part_can_be_chosen() -> None:
    """A form takes all parts, a name one of them with a count; any other name is refused in a sentence."""
    assert [much for _, much in chosen("small", 0)] == [part.small for part in PARTS]
    assert [(part.name, much) for part, much in chosen("restarts", 7)] == [("restarts", 7)]
    refused = CliRunner().invoke(app, ["medium"])
    assert refused.exit_code == 2
    assert "expected small, large, or one of" in refused.output
