"""Modules of packages of the registry: each is exported by the command in docs/models.md, and held to the module."""

from pathlib import Path

import numpy as np
import pytest

from export.artefact import read_card
from export.figure import Figure
from tests.export.served import streamed
from tests.export.wild import STEPS, code, command, figures, pip, run

pytestmark = [pytest.mark.wild, pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGES = {
    "policy": ("sb3-contrib==2.9.2", "stable-baselines3", "gymnasium", "cloudpickle", "farama-notifications"),
    "cfc": ("ncps==1.0.1",),
    "ltc": ("ncps==1.0.1",),
    "spiking": ("snntorch==1.0.0",),
    "slstm": ("xlstm==2.0.6",),
}
"""Artefact → the packages that its module needs beside torch and numpy."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that packages are installed into."""
    return tmp_path_factory.mktemp("packages")


def prepare(name: str, folder: Path, packages: Path) -> tuple[list[str], Path]:
    """Install what a module needs and write the document's code; return its command and the folder of packages."""
    needed = PACKAGES[name]
    installed = packages / needed[0]
    if not installed.is_dir():
        pip("install", "--target", str(installed), *needed)
    arguments = command(name)
    file = f"{arguments[arguments.index('module') + 1].split(':')[0]}.py"
    (folder / file).write_text(code(f"# {file}"))
    return arguments, installed


@pytest.mark.parametrize("name", PACKAGES)
def test_a_module_of_a_package_is_served_as_it_runs(name: str, packages: Path, tmp_path: Path) -> None:
    """The command exports it; states and max_batch are the document's; 240 steps give what the module gives."""
    arguments, installed = prepare(name, tmp_path, packages)
    status, printed = run(arguments, tmp_path, installed)
    assert status == 0, printed
    status, printed = run(["-m", "tests.export.wild_modules", name], tmp_path, installed)
    assert status == 0, printed
    values = np.load(tmp_path / f"{name}.npz")
    inputs = {key.removeprefix("input/"): values[key] for key in values.files if key.startswith("input/")}
    (expected,) = [values[key] for key in values.files if key.startswith("output/")]
    assert np.ptp(expected) > 0
    artefact = tmp_path / f"artifacts/{name}/1/model.onnx"
    card = read_card(artefact)
    states = [f"{spec.name} {'×'.join(map(str, spec.shape))}" for spec in card.states]
    assert (", ".join(states), card.max_batch) == figures(name)
    for chunk in (1, 7):
        (found,) = streamed(artefact, inputs, chunk).values()
        error = Figure.of(found.reshape(1, STEPS, -1), expected.reshape(1, STEPS, -1)).error
        assert error <= 1e-5
        print(f"{name} in chunks of {chunk}: {error:.2g} of the spread, {np.ptp(expected):.3g}")


def test_a_function_that_asks_about_all_rows_is_refused(packages: Path, tmp_path: Path) -> None:
    """The package's own sLSTM step chooses by the whole batch: nothing is written, and its line is named."""
    arguments, installed = prepare("slstm", tmp_path, packages)
    module = tmp_path / "my_slstm.py"
    module.write_text(module.read_text().replace("self.slstm.pointwise = one_step", "pass"))
    status, printed = run(arguments, tmp_path, installed)
    assert (status, (tmp_path / "artifacts").exists()) == (1, False)
    assert "choose by a tensor's value in" in printed
    assert "slstm.py:25" in printed
