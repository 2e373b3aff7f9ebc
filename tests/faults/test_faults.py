"""Every scenario of the fault injection tests passes in its small size, and a deliberate fault is detected."""

from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from tests.faults.__main__ import app, select
from tests.faults.accumulator import export_accumulator
from tests.faults.history import Kind
from tests.faults.load import Load, LoadResult, run_load
from tests.faults.process import ServiceProcess
from tests.faults.proxy import Fault
from tests.faults.scenarios import SCENARIOS, Scenario, run_loop
from tests.faults.session import MAX_INPUTS, ClientSession

QUICK = {"snapshots", "limits"}
"""The scenarios that send no load to a process."""


def marked(scenario: Scenario) -> object:
    """Return a scenario as a parameter, marked slow unless it is quick."""
    return pytest.param(scenario, id=scenario.name, marks=() if scenario.name in QUICK else pytest.mark.slow)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scenario", [marked(scenario) for scenario in SCENARIOS])
def test_a_small_scenario_passes(scenario: Scenario, tmp_path: Path) -> None:
    """Every figure of the scenario reaches its target."""
    figures = scenario.run(tmp_path, scenario.small, lambda _: None)
    assert [figure for figure in figures if not figure.reached] == []


def load_against(planted: str, folder: Path, load: Load) -> tuple[LoadResult, dict[str, tuple[int, int]]]:
    """Send a load to a service with a deliberate fault; return the result, and where the fault first took effect."""
    with ServiceProcess(export_accumulator(folder), planted=planted) as service:
        result = run_loop(run_load(service.port, load))
    return result, service.injected()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_service_that_takes_retries_twice_is_detected(tmp_path: Path) -> None:
    """If the service takes a retry as a new step, exactly the steps that were taken twice are reported."""
    load = Load(1_000, fleets=0, sockets=0, framed=0, extras=False, timeout=30, faults=(Fault.ANSWER_DROPPED,))
    result, injected = load_against("duplicate", tmp_path, load)
    assert len(injected) > 10
    assert {each.session: (each.first, each.last) for each in result.report.violations} == injected
    assert {each.kind for each in result.report.violations} == {Kind.DUPLICATED}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_service_that_drops_an_answered_step_is_detected(tmp_path: Path) -> None:
    """If the state lacks a step that was answered, exactly the missing steps are reported."""
    load = Load(2_000, fleets=0, framed=0, extras=False)
    result, injected = load_against("drop", tmp_path, load)
    assert len(injected) > 10
    assert {each.session: (each.first, each.last) for each in result.report.violations} == injected
    assert {each.kind for each in result.report.violations} == {Kind.LOST}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_service_that_forgets_an_answered_step_is_detected(tmp_path: Path) -> None:
    """If a session is reset to before a step that was answered, that is reported for this session and no other."""
    load = Load(2_000, fleets=0, framed=0, rate=0.0, extras=False)
    result, injected = load_against("forget", tmp_path, load)
    assert len(injected) > 10
    assert {each.session: (each.first, each.last) for each in result.report.violations} == injected
    assert all(each.kind in (Kind.LOST, Kind.DUPLICATED) for each in result.report.violations)


def test_inputs_are_all_different() -> None:
    """All inputs of a session and of its branch are different, and their sum is exact in float32."""
    session = ClientSession("s", Random(1), MAX_INPUTS)
    drawn = [value for _ in range(20) for value in session.draw()]
    branch = session.branch("t", 3, 100)
    for each in (session, branch):
        rest: list[int] = []
        while each.left > 0:
            rest += each.draw()
        assert len({*drawn, *rest}) == len(drawn) + len(rest)
        assert sum(drawn) + sum(rest) < 1 << 24


def test_scenarios_are_selected_by_size_or_name() -> None:
    """A size selects all scenarios, a name one of them with a count; any other name is refused with the choices."""
    assert [size for _, size in select("small", 0)] == [scenario.small for scenario in SCENARIOS]
    assert [(scenario.name, size) for scenario, size in select("restarts", 7)] == [("restarts", 7)]
    refused = CliRunner().invoke(app, ["medium"])
    assert refused.exit_code == 2
    assert "expected small, large, or one of" in refused.output
