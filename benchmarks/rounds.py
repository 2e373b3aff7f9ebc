"""One round: every load once, the service and what it is measured against taking turns."""

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
    """One load's result: steps a second, latency percentiles in ms, the server's CPU seconds for a request."""

    rate: float
    p50: float = 0.0
    p99: float = 0.0
    cpu: float = 0.0

    @classmethod
    def of(cls, load: Load) -> "Figure":
        return cls(load.rate, load.percentile(50), load.percentile(99), load.cpu_of_request)


class Bench:
    """All servers, running, and the loads on them."""

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
        """One step a request, JSON."""
        return Figure.of(await step_load(server, self._session_paths(server, sessions), seconds))

    async def chunks(self, longest: int) -> Figure:
        """Chunks of 1 to `longest` steps a request, 64 sessions, JSON."""
        loops = []
        for path in self._session_paths(self.service, 64):
            lengths = [int(n) for n in _RANDOM.integers(1, longest + 1, 32)]
            loops.append([Request(post(path, _json_steps(_inputs(n))), n) for n in lengths])
        return Figure.of(await closed_loop(self.service.url, loops, pid=self.service.pid, seconds=SECONDS))

    async def steps_beside_predictions(self) -> Figure:
        """One step a request, 64 sessions, while another client predicts long sequences without pause."""
        request = Request(post("/v1/models/lstm/predict", _json_sequence(_inputs(LONG))), LONG)
        beside = asyncio.create_task(
            closed_loop(self.service.url, [[request]], pid=self.service.pid, seconds=SECONDS * 2, warm_up=1)
        )
        await asyncio.sleep(0.1)
        figure = await self.steps(self.service, 64)
        await beside
        return figure

    async def sockets(self, server: Server) -> Figure:
        """One step a frame, 64 WebSockets, binary."""
        loops = [[Request(frame(_inputs(1).tobytes())) for _ in range(32)] for _ in range(64)]
        path = "/v1/models/lstm/stream?format=binary"
        return Figure.of(await closed_loop(server.url, loops, pid=server.pid, seconds=SECONDS, socket_path=path))

    async def fleet(self) -> Figure:
        """1,024 sessions a request, framed."""
        return Figure.of(await fleet_load(self.service, SECONDS))

    async def long_prediction(self, binary: bool) -> Figure:
        """One sequence of 3,801 steps a request."""
        inputs = _inputs(LONG)
        body, headers = (inputs.tobytes(), _BINARY) if binary else (_json_sequence(inputs), {})
        loop = [Request(post("/v1/models/lstm/predict", body, **headers), LONG)]
        return Figure.of(await closed_loop(self.service.url, [loop], pid=self.service.pid, seconds=SECONDS, warm_up=2))

    async def predictions(self) -> Figure:
        """64 clients, each predicting sequences of 10 to 400 steps, JSON."""
        loops = []
        for _ in range(64):
            lengths = [int(n) for n in _RANDOM.integers(10, 401, 4)]
            loops.append([Request(post("/v1/models/lstm/predict", _json_sequence(_inputs(n))), n) for n in lengths])
        return Figure.of(await closed_loop(self.service.url, loops, pid=self.service.pid, seconds=SECONDS, warm_up=1))

    def raw_batches(self) -> Figure:
        """Raw onnxruntime, one step of 1,024 sequences a run."""
        return Figure(self.raw.row_steps_a_second(1, FLEET, SECONDS))

    def raw_long(self) -> Figure:
        """Raw onnxruntime, one sequence of 3,801 steps a run."""
        return Figure(self.raw.row_steps_a_second(LONG, 1, SECONDS))

    def raw_one_by_one(self) -> Figure:
        """Raw onnxruntime, sequences of 10 to 400 steps one after the other."""
        steps, start = 0, time.perf_counter()
        for length in itertools.cycle([int(n) for n in _RANDOM.integers(10, 401, 16)]):
            self.raw.run(length, 1)
            steps += length
            if (passed := time.perf_counter() - start) >= SECONDS:
                return Figure(steps / passed)
        raise AssertionError

    def start_of_ten(self, folder: Path) -> Figure:
        """Process start to listening, ten small models; the rate is 1 / seconds."""
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
