"""The loads of one round, on the service and on the servers with which it is compared."""

import asyncio
import itertools
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from benchmarks.load import Load, Request, closed_loop, frame, post
from benchmarks.raw import RawModel, write_raw_model
from benchmarks.reference import FEATURES, write_reference
from benchmarks.servers import Server, post_json

SECONDS = 1.0
LONG = 3801
FLEET = 1024
_RANDOM = np.random.default_rng(11)
_BINARY = {"content_type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Figure:
    """Result of one load: steps per second, latency percentiles in ms, the server's CPU seconds per request."""

    rate: float
    p50: float = 0.0
    p99: float = 0.0
    cpu: float = 0.0

    @classmethod
    def of(cls, load: Load) -> "Figure":
        return cls(load.rate, load.percentile(50), load.percentile(99), load.cpu_of_request)


class Bench:
    """The running servers, and the loads on them; each load returns its result."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        artefact = write_reference(folder / "artifacts")
        write_raw_model(folder / "raw.onnx")
        raw = str(folder / "raw.onnx")
        self._artifacts = artefact.parents[2]
        self.raw = RawModel(folder / "raw.onnx")
        self.service = stack.enter_context(
            Server("service", "--artifacts", str(self._artifacts), "--log-level", "error")
        )
        self.bare, self.bare_ws, self.pydantic, self.dict_of_states = (
            stack.enter_context(Server("benchmarks.peers", name, model=raw))
            for name in ("bare", "bare_ws", "pydantic", "dict_of_states")
        )

    def _session_paths(self, server: Server, count: int) -> list[str]:
        if server is self.service:
            return open_sessions(server, count)
        return [f"/v1/sessions/s{n}/steps" for n in range(count)]

    async def steps(self, server: Server, sessions: int, seconds: float = SECONDS) -> Figure:
        """Send one step per request, in JSON."""
        return Figure.of(await step_load(server, self._session_paths(server, sessions), seconds))

    async def chunks(self, longest: int) -> Figure:
        """Send chunks of 1 to `longest` steps per request, in JSON, from 64 sessions."""
        loops = []
        for path in self._session_paths(self.service, 64):
            lengths = [int(n) for n in _RANDOM.integers(1, longest + 1, 32)]
            loops.append([Request(post(path, _json_steps(_inputs(n))), n) for n in lengths])
        return Figure.of(await closed_loop(self.service.url, loops, pid=self.service.pid, seconds=SECONDS))

    async def steps_with_predictions(self) -> Figure:
        """Send one step per request from 64 sessions, while another client continuously predicts long sequences."""
        request = Request(post("/v1/models/lstm/predict", _json_sequence(_inputs(LONG))), LONG)
        predictions = asyncio.create_task(
            closed_loop(self.service.url, [[request]], pid=self.service.pid, seconds=SECONDS * 2, warm_up=1)
        )
        await asyncio.sleep(0.1)
        figure = await self.steps(self.service, 64)
        await predictions
        return figure

    async def sockets(self, server: Server) -> Figure:
        """Send one step per binary frame over 64 WebSockets."""
        loops = [[Request(frame(_inputs(1).tobytes())) for _ in range(32)] for _ in range(64)]
        path = "/v1/models/lstm/stream?format=binary"
        return Figure.of(await closed_loop(server.url, loops, pid=server.pid, seconds=SECONDS, socket_path=path))

    async def fleet(self) -> Figure:
        """Advance 1,024 sessions per request, with a binary tensor."""
        return Figure.of(await fleet_load(self.service, SECONDS))

    async def long_prediction(self, binary: bool) -> Figure:
        """Predict one sequence of 3,801 steps per request."""
        inputs = _inputs(LONG)
        body, headers = (inputs.tobytes(), _BINARY) if binary else (_json_sequence(inputs), {})
        loop = [Request(post("/v1/models/lstm/predict", body, **headers), LONG)]
        return Figure.of(await closed_loop(self.service.url, [loop], pid=self.service.pid, seconds=SECONDS, warm_up=2))

    async def predictions(self) -> Figure:
        """Predict sequences of 10 to 400 steps, in JSON, from 64 clients."""
        loops = []
        for _ in range(64):
            lengths = [int(n) for n in _RANDOM.integers(10, 401, 4)]
            loops.append([Request(post("/v1/models/lstm/predict", _json_sequence(_inputs(n))), n) for n in lengths])
        return Figure.of(await closed_loop(self.service.url, loops, pid=self.service.pid, seconds=SECONDS, warm_up=1))

    def raw_batches(self) -> Figure:
        """Run raw onnxruntime on one step of 1,024 sequences at a time."""
        return Figure(self.raw.steps_per_second(1, FLEET, SECONDS))

    def raw_long(self) -> Figure:
        """Run raw onnxruntime on one sequence of 3,801 steps at a time."""
        return Figure(self.raw.steps_per_second(LONG, 1, SECONDS))

    def raw_one_at_a_time(self) -> Figure:
        """Run raw onnxruntime on sequences of 10 to 400 steps, one at a time."""
        steps, start = 0, time.perf_counter()
        for length in itertools.cycle([int(n) for n in _RANDOM.integers(10, 401, 16)]):
            self.raw.run(length, 1)
            steps += length
            if (passed := time.perf_counter() - start) >= SECONDS:
                return Figure(steps / passed)
        raise AssertionError

    def start_of_ten(self, folder: Path) -> Figure:
        """Start the service with ten small models until it listens; the rate is 1 / seconds."""
        with Server("service", "--artifacts", str(folder), "--log-level", "error") as server:
            return Figure(1 / server.start_seconds)

    async def check(self) -> float:
        """Return the largest difference between the service and raw onnxruntime over 30 steps of a session."""
        inputs = _inputs(30)
        answer = orjson.loads(
            post_json(self.service.url + self._session_paths(self.service, 1)[0], _json_steps(inputs))
        )
        return float(np.abs(np.array(answer["outputs"], np.float32) - self.raw.outputs(inputs)).max())


def open_sessions(server: Server, count: int) -> list[str]:
    """Open sessions of the reference model and return the paths of their steps."""
    answers = [orjson.loads(post_json(f"{server.url}/v1/models/lstm/sessions")) for _ in range(count)]
    return [f"/v1/sessions/{answer['session_id']}/steps" for answer in answers]


async def step_load(server: Server, paths: list[str], seconds: float) -> Load:
    """Post one step a request, JSON, to each path over a connection of its own."""
    bodies = [_json_steps(_inputs(1)) for _ in range(32)]
    loops = [[Request(post(path, body)) for body in bodies] for path in paths]
    return await closed_loop(server.url, loops, pid=server.pid, seconds=seconds)


async def fleet_load(server: Server, seconds: float) -> Load:
    """Post framed fleet steps of 1,024 sessions, one request after the other."""
    raw = _RANDOM.normal(size=(FLEET, 1, FEATURES)).astype("<f4").tobytes()
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [FLEET, 1, FEATURES],
        "parameters": {"binary_data_size": len(raw)},
    }
    names = [f"unit-{n}" for n in range(FLEET)]
    head = orjson.dumps({"sessions": names, "create": True, "inputs": [tensor]})
    wire = post("/v1/models/lstm/fleet", head + raw, inference_header_content_length=str(len(head)))
    loop = [Request(wire, FLEET)]
    return await closed_loop(server.url, [loop], pid=server.pid, seconds=seconds, warm_up=3)


def _inputs(steps: int) -> np.ndarray:
    return _RANDOM.uniform(-1, 1, (steps, FEATURES)).round(5).astype("<f4")


def _json_rows(inputs: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.5f}") for value in row] for row in inputs]


def _json_steps(inputs: np.ndarray) -> bytes:
    return json.dumps({"inputs": _json_rows(inputs)}, separators=(",", ":")).encode()


def _json_sequence(inputs: np.ndarray) -> bytes:
    return json.dumps({"inputs": [_json_rows(inputs)]}, separators=(",", ":")).encode()
