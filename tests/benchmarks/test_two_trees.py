"""What two trees are measured by runs on servers of any tree, and finds a tree equal to itself."""

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.calls import count
from benchmarks.compare import main as compare
from benchmarks.reference import write_reference
from tests.recorded.server import HERE


def test_calls_of_a_step_are_the_same_every_time(tmp_path: Path) -> None:
    """Nearly all steps give the same number of calls, and so does a second process."""
    write_reference(tmp_path / "artifacts")
    found = [count(HERE, tmp_path / "artifacts", tmp_path, 100) for _ in range(2)]
    for each in found:
        assert each["like_this"] > 0.5 * each["steps"]
    assert found[0]["python"] == found[1]["python"]
    assert sum(count for name, count in found[0]["python"].items() if name.startswith("service/")) > 10


def test_two_servers_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every load gives a ratio of speed and one of CPU time."""
    monkeypatch.setattr("benchmarks.compare.pin", lambda core: None)  # the tests go on in this process
    app = typer.Typer()
    app.command()(compare)
    result = CliRunner().invoke(app, [str(HERE), str(HERE), "--rounds", "1", "--seconds", "0.05"])
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"(?:new|old) ÷ old +│ +\d+\.\d{3} \(.*?\) │ +\d+\.\d{3} \(", result.output)) == 8
