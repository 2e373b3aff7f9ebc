import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples import sunspots
from examples.running import ROOT, free_port


def run_demo(folder: Path) -> str:
    arguments = ["--epochs", "2", "--port", str(free_port(0))]
    arguments += ["--artifacts", str(folder / "artifacts"), "--checkpoints", str(folder / "checkpoints")]
    done = subprocess.run(
        [sys.executable, "-m", "examples.sunspots", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_runs_to_its_end_and_reuses_its_files(tmp_path: Path) -> None:
    """Without a terminal the demo trains, exports, serves, streams, compares and ends; a second run reuses files."""
    first = run_demo(tmp_path)
    years = [int(year) for year in re.findall(r"^│ (\d{4}) │", first, re.MULTILINE)]
    assert years == list(range(1921, 1980))
    for line in ("LSTM, through the service", "AR(9)", "persistence", "as commonly quoted", "service stopped"):
        assert line in first
    difference = re.search(r"one pass: (\S+)", first)
    assert difference is not None
    assert float(difference[1]) < 1e-3
    assert (tmp_path / "artifacts" / "sunspots" / "1" / "model.onnx").is_file()

    second = run_demo(tmp_path)
    assert "LSTM 1 → 4 → 1 reused" in second
    assert "reused: " in second
    assert first.splitlines()[-20:-3] == second.splitlines()[-20:-3]


@pytest.mark.parametrize("argument", ["--epochs=none", "--unknown"])
def test_a_wrong_argument_is_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends with a usage message and status 2 before anything is trained."""
    with pytest.raises(SystemExit) as ended:
        sunspots.main([argument])
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
