"""Adopt a third-party voice activity detector, and stream a recording through a running service.

    python -m examples.voice_activity silero_vad_16k.onnx speech_16k.wav

The model is Silero VAD for 16 kHz (snakers4/silero-vad, MIT), the recording any 16 kHz mono 16-bit WAV file. Each step,
512 samples or 32 ms, is sent to a session over a WebSocket; the service keeps the network's state, and the last 64
samples, which the model needs before those of the next step.
"""

import argparse
import sys
import tempfile
import time
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cellstream_client import Client
from examples.running import HOST, ServiceUnavailableError, free_port, integer_in, running_service
from export import ExportOptions
from export.adopt import AdoptOptions, adopt_model
from export.errors import ExportError

RATE = 16_000
STEP = 512
THRESHOLD = 0.5
MIN_STEPS = 8
"""Minimum length of an interval of speech or silence, in steps: a quarter of a second."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Adopt, serve and stream, print the intervals of speech, and return the exit status."""
    parser = argparse.ArgumentParser(description="Find speech in a recording, step by step, through a running service.")
    parser.add_argument("model", type=Path, help="silero_vad_16k.onnx")
    parser.add_argument("recording", type=Path, help="a WAV file: 16 kHz, mono, 16 bits")
    parser.add_argument("--port", type=integer_in(0, 65_535), default=8000, help="port of the service (default: 8000)")
    options = parser.parse_args(arguments)
    try:
        steps = read_steps(options.recording)
        with tempfile.TemporaryDirectory(prefix="cellstream-vad-") as folder:
            adopt_silero(options.model, Path(folder))
            port = free_port(options.port)
            with running_service(Path(folder), port, Path(folder) / "service.log"):
                start = time.perf_counter()
                speech = stream(f"http://{HOST}:{port}", steps)
                seconds = time.perf_counter() - start
    except (ExportError, ServiceUnavailableError, OSError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 1
    length = len(steps) * STEP / RATE
    for begin, end, spoken in timeline(speech):
        print(f"{begin:7.2f} s  {end:7.2f} s  {'speech ' + bar(begin, end) if spoken else 'silence'}")
    print(
        f"{len(steps)} steps of 32 ms in {seconds:.2f} s: {1e3 * seconds / len(steps):.2f} ms/step, real-time factor "
        f"{seconds / length:.4f}"
    )
    return 0


def adopt_silero(model: Path, folder: Path, name: str = "silero") -> Path:
    """Adopt the model: the sample rate is a constant input, and a step is 512 samples, preceded by the last 64.

    Raises:
        ExportError: The file is not a model that can be adopted with these options.
    """
    options = AdoptOptions.parse(constants=["sr=16000"], steps=[f"input={STEP}"], overlaps=["input:64"])
    return adopt_model(model, folder, name, 1, ExportOptions(on_finding=print), adopt_options=options)


def read_steps(recording: Path) -> np.ndarray:
    """Return the recording as steps, (steps, 512) float32 in [-1, 1); an incomplete last step is dropped.

    Raises:
        ValueError: The file is not a WAV file of 16 kHz, mono, 16 bits; or it is truncated, or shorter than one step.
        OSError: The file cannot be read.
    """
    try:
        with wave.open(str(recording), "rb") as file:
            found = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            length = file.getnframes()
            data = file.readframes(length)
    except (wave.Error, EOFError) as exc:
        raise ValueError(f"{recording}: cannot be read as a WAV file: {str(exc) or 'it ends too early'}") from exc
    if found != (RATE, 1, 2):
        raise ValueError(f"{recording}: expected 16000 Hz, 1 channel, 2 bytes, found {found}")
    if len(data) != 2 * length:
        raise ValueError(
            f"{recording}: expected {length} samples of 2 bytes, as its header says, found {len(data)} bytes"
        )
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    if len(samples) < STEP:
        raise ValueError(f"{recording}: expected at least one step of {STEP} samples, found {len(samples)}")
    return samples[: len(samples) // STEP * STEP].reshape(-1, STEP)


def stream(url: str, steps: np.ndarray) -> list[float]:
    """Send one step at a time over a WebSocket; return the probability of speech in each."""
    with Client(url) as client, client.stream("silero", idle_limit=60) as socket:
        return [socket.step(step)[0] for step in steps]


def timeline(probabilities: Sequence[float]) -> Iterator[tuple[float, float, bool]]:
    """Yield intervals as (begin, end, is speech) in seconds; one shorter than MIN_STEPS is joined to that before it."""
    intervals: list[list[int]] = []  # first step, step after the last, is speech
    for step, probability in enumerate(probabilities):
        spoken = int(probability >= THRESHOLD)
        if intervals and intervals[-1][2] == spoken:
            intervals[-1][1] = step + 1
        else:
            intervals.append([step, step + 1, spoken])
    joined: list[list[int]] = []
    for first, end, spoken in intervals:
        if joined and (end - first < MIN_STEPS or joined[-1][2] == spoken):
            joined[-1][1] = end
        else:
            joined.append([first, end, spoken])
    for first, end, spoken in joined:
        yield first * STEP / RATE, end * STEP / RATE, bool(spoken)


def bar(begin: float, end: float) -> str:
    """Return a bar with one mark for each quarter of a second."""
    return "▇" * max(1, round(4 * (end - begin)))


if __name__ == "__main__":
    sys.exit(main())
