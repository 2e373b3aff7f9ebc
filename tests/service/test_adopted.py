"""A session of an adopted model gives the outputs of the original file, run directly by onnxruntime.

The tests with Silero VAD read the model and the recording from the folder CELLSTREAM_SHARED (default ../shared), and
are skipped if it is missing.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import orjson
import pytest

from examples.voice_activity import adopt_silero, read_steps
from export.adopt import AdoptOptions, adopt_model
from export.artefact import read_card
from service.app import Service
from service.engine.outputs import output_tensor
from service.sessions.steps import StepRequest, Steps
from service.settings import Settings
from tests.export.zoo import ZOO, write
from tests.fakes import FakeClock

SHARED = Path(os.environ.get("CELLSTREAM_SHARED", "../shared")) / "data"
SILERO, SPEECH = SHARED / "silero_vad_16k.onnx", SHARED / "speech_16k.wav"
needs_silero = pytest.mark.skipif(
    not (SILERO.is_file() and SPEECH.is_file()), reason=f"{SILERO} and {SPEECH.name} are not here (CELLSTREAM_SHARED)"
)
OTHERS = 32


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name, foreign in ZOO.items():
        file = write(foreign.model(), folder / f"{name}.onnx")
        adopt_model(file, folder / "artifacts", name, 1, adopt_options=AdoptOptions.parse(**foreign.options))
    return folder / "artifacts"


@pytest.fixture(scope="module")
def service(zoo: Path) -> Iterator[Service]:
    """Return a service with all models of the zoo; it needs no event loop until a step is sent."""
    made = Service(Settings(artifacts=zoo, max_sessions=40), FakeClock())
    made.load()
    yield made
    made.close()


def original(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def drawn(spec: Any, steps: int, random: np.random.Generator) -> Any:
    shape = (steps, *spec.shape)
    if spec.dtype.startswith("int"):
        return random.integers(0, spec.vocabulary or 2, shape)
    return random.normal(size=shape).astype(spec.dtype)


async def send(client: httpx.AsyncClient, session: str, inputs: dict[str, Any], steps: slice) -> dict[str, Any]:
    """Advance a session by some steps of a sequence; return its outputs by name."""
    named = {key: value[steps].tolist() for key, value in inputs.items()}
    body = {"inputs": named if len(named) > 1 else next(iter(named.values()))}
    answer = await client.post(f"/v1/sessions/{session}/steps", json=body)
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["outputs"]
    return outputs if isinstance(outputs, dict) else {"": outputs}


@pytest.mark.parametrize("name", ZOO)
async def test_the_service_takes_every_adopted_model(service: Service, zoo: Path, name: str) -> None:
    """Every adopted model is loaded, and gives the same outputs for a chunk and for single steps."""
    card = read_card(zoo / name / "1/model.onnx")
    random = np.random.default_rng(0)
    inputs = {spec.name: drawn(spec, 6, random) for spec in card.inputs}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:
        one, other = [(await client.post(f"/v1/models/{name}/sessions")).json()["session_id"] for _ in range(2)]
        whole = await send(client, one, inputs, slice(0, 6))
        steps = [await send(client, other, inputs, slice(step, step + 1)) for step in range(6)]
    for key, value in whole.items():
        apart = np.concatenate([np.array(step[key]) for step in steps])
        np.testing.assert_allclose(np.array(value), apart, rtol=1e-6, atol=1e-6)


async def test_a_session_of_an_adopted_lstm_equals_the_original(service: Service, zoo: Path) -> None:
    """A session over HTTP gives the outputs of the original file, stepped by the test itself."""
    run = original(zoo.parent / "time_first_batch_second.onnx")
    x = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    h = c = np.zeros((1, 1, 5), np.float32)
    expected = []
    for step in x:
        y, h, c = run.run(["y", "hn", "cn"], {"x": step[None, None], "h0": h, "c0": c})
        expected.append(y[0, 0])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:
        session = (await client.post("/v1/models/time_first_batch_second/sessions")).json()["session_id"]
        found = [
            (await client.post(f"/v1/sessions/{session}/steps", json={"inputs": [step.tolist()]})).json()["outputs"][0]
            for step in x
        ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture(scope="module")
def silero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("silero")
    adopt_silero(SILERO, folder)
    return folder


@pytest.fixture
async def detector(silero: Path) -> AsyncIterator[Service]:
    made = Service(Settings(artifacts=silero, max_sessions=40), FakeClock())
    made.open()
    yield made
    made.close()


def run_directly(steps: np.ndarray) -> np.ndarray:
    """Run Silero directly, as its authors do: the state fed back, and the last 64 samples before each step."""
    run = original(SILERO)
    state, before = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
    found = []
    for step in steps:
        whole = np.concatenate([before, step])[None]
        y, state = run.run(["output", "stateN"], {"input": whole, "state": state, "sr": np.array(16_000)})
        before = step[-64:]
        found.append(y[0])
    return np.array(found)


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, np.ndarray]:
    """Return the recording as steps, (1875, 512), and the original's outputs for it."""
    steps = read_steps(SPEECH)
    return steps, run_directly(steps)


@needs_silero
async def test_silero_alone_equals_the_original(detector: Service, speech: tuple[np.ndarray, np.ndarray]) -> None:
    """1,875 steps of speech, each a request over HTTP, equal the original within 1e-6."""
    steps, expected = speech
    assert len(steps) == 1875
    found = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(detector.app), base_url="http://service") as client:
        session = (await client.post("/v1/models/silero/sessions")).json()["session_id"]
        for step in steps:
            answer = await client.post(
                f"/v1/sessions/{session}/steps", content=orjson.dumps({"inputs": [step.tolist()]})
            )
            found.append(orjson.loads(answer.content)["outputs"][0])
    assert float(np.abs(np.array(found) - expected).max()) <= 1e-6


@needs_silero
@pytest.mark.slow
async def test_silero_beside_other_sessions_equals_the_original(
    detector: Service, speech: tuple[np.ndarray, np.ndarray]
) -> None:
    """1,875 steps equal the original within 1e-6 while 32 other sessions are in the same batches."""
    steps, expected = speech
    model = detector.repository.find("silero")
    service = Steps(detector.sessions, session_queue_limit=1)
    sessions = [detector.sessions.create("tenant", model, 900) for _ in range(1 + OTHERS)]
    found = np.zeros((1 + OTHERS, len(steps), 1))
    for step in range(len(steps)):
        # each other session is at another step of the recording, so all rows of a batch differ
        positions = [step] + [(step + 53 * other) % len(steps) for other in range(1, 1 + OTHERS)]
        requests = [
            StepRequest(session.id, (steps[position].astype("<f4").tobytes(),), 1)
            for session, position in zip(sessions, positions, strict=True)
        ]
        results = await asyncio.gather(*(service.take("tenant", request) for request in requests))
        for row, result in enumerate(results):
            found[row, step] = output_tensor(result.outputs)[0]
    assert float(np.abs(found[0] - expected).max()) <= 1e-6
    runs = model.batcher.statistics.rows / model.batcher.statistics.run_count
    assert runs > OTHERS / 2, f"only {runs:.1f} rows ran together"
    # one of the others gives what it would give alone
    shifted = run_directly(np.roll(steps, -53, axis=0)[:200])
    assert float(np.abs(found[1, :200] - shifted).max()) <= 1e-6
