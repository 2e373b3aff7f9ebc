"""The examples with a third-party model and a user's module, and the document about both.

Tests that need Silero VAD read it from the folder CELLSTREAM_SHARED (default ../shared), and are skipped without it.
"""

import os
import re
import shlex
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import anomaly, voice_activity
from examples.running import ROOT, free_port

SHARED = Path(os.environ.get("CELLSTREAM_SHARED", "../shared")).resolve() / "data"
SILERO, SPEECH = SHARED / "silero_vad_16k.onnx", SHARED / "speech_16k.wav"
needs_silero = pytest.mark.skipif(not SILERO.is_file(), reason=f"{SILERO} is missing (CELLSTREAM_SHARED)")
DOCUMENT = "docs/bring-your-own.md"


def write_wave(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@needs_silero
def test_voice_activity_prints_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For nine seconds of speech, the example prints the model's states, intervals and a real-time factor below 1."""
    steps = voice_activity.read_steps(SPEECH)[: 9 * 16_000 // 512]
    recording = write_wave(tmp_path / "speech.wav", steps.reshape(-1))
    port = free_port(0)
    assert voice_activity.main([str(SILERO), str(recording), "--port", str(port)]) == 0
    printed = capsys.readouterr().out
    assert "state state ← stateN" in printed
    assert len(re.findall(r"^ +[\d.]+ s +[\d.]+ s  speech ▇", printed, re.MULTILINE)) >= 2
    assert "silence" in printed
    factor = float(re.search(r"real-time factor ([\d.]+)", printed)[1])  # type: ignore[index]
    assert factor < 1


def test_a_recording_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recording of another format, too short or truncated is refused, and the message says what was found."""
    recording = write_wave(tmp_path / "music.wav", np.zeros(1_000), rate=44_100)
    assert voice_activity.main(["silero.onnx", str(recording)]) == 1
    assert "found (44100, 1, 2)" in capsys.readouterr().err
    recording = write_wave(tmp_path / "click.wav", np.zeros(511))
    assert voice_activity.main(["silero.onnx", str(recording)]) == 1
    assert "found 511" in capsys.readouterr().err
    (tmp_path / "empty.wav").touch()
    assert voice_activity.main(["silero.onnx", str(tmp_path / "empty.wav")]) == 1
    assert "ends too early" in capsys.readouterr().err
    whole = write_wave(tmp_path / "whole.wav", np.zeros(2_000)).read_bytes()
    for kept in (len(whole) - 1, len(whole) - 1_000):
        (tmp_path / "cut.wav").write_bytes(whole[:kept])
        assert voice_activity.main(["silero.onnx", str(tmp_path / "cut.wav")]) == 1
        assert f"{tmp_path / 'cut.wav'}: expected 2000 samples" in capsys.readouterr().err


def test_a_timeline_joins_short_intervals() -> None:
    """A pause or a sound shorter than a quarter of a second does not end an interval."""
    speech = [0.9] * 20 + [0.1] * 3 + [0.9] * 20 + [0.1] * 30 + [0.9] * 2 + [0.1] * 10
    found = [(round(begin, 2), round(end, 2), spoken) for begin, end, spoken in voice_activity.timeline(speech)]
    assert found == [(0.0, 1.38, True), (1.38, 2.72, False)]
    assert list(voice_activity.timeline([])) == []


@pytest.mark.slow
def test_a_module_of_twenty_lines_finds_the_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """The example trains, exports, serves and streams, and reports the fault as far from its prediction."""
    assert anomaly.main(["--port", str(free_port(0)), "--rounds", "40"]) == 0
    printed = capsys.readouterr().out
    assert "gru: 1 layer, carried from step to step" in printed
    assert re.search(r"far from their prediction: .*\b140\b", printed)


def commands(word: str) -> list[list[str]]:
    """Return the document's shell commands that contain a word, to be run by this interpreter."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / DOCUMENT).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if word in line]
    return [[sys.executable, *shlex.split(line)[1:]] for line in lines]


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_module_in_the_document_is_exported(tmp_path: Path) -> None:
    """The document's command exports the document's module, saved as it describes."""
    (code,) = re.findall(r"```python\n(# my_model.*?)```", (ROOT / DOCUMENT).read_text(), re.DOTALL)
    (tmp_path / "my_model.py").write_text(code)
    namespace: dict[str, type[torch.nn.Module]] = {}
    exec(code, namespace)
    torch.save(namespace["Detector"]().state_dict(), tmp_path / "detector.pt")
    (command,) = commands("export module my_model")
    assert "lstm: 2 layers" in run(command, tmp_path)
    assert (tmp_path / "artifacts/detector/1/model.onnx").is_file()


@needs_silero
def test_the_file_in_the_document_is_adopted(tmp_path: Path) -> None:
    """The document's command adopts Silero and prints the lines that the document shows."""
    (tmp_path / SILERO.name).symlink_to(SILERO)
    (command,) = commands("export adopt silero")
    printed = run(command, tmp_path)
    (shown,) = re.findall(r"```text\n(.*?)```", (ROOT / DOCUMENT).read_text(), re.DOTALL)
    for line in shown.splitlines():
        assert line in printed
