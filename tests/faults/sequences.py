"""P5: a sequence that is chunked, forked, restored and rewound among strangers gives what it gives in one run."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import torch

from benchmarks.cells.suite import small_network, variants
from export import export_network
from models.network import Network
from tests.faults.inprocess import OCTETS, InProcess

TOLERANCE = 1e-5
FEW_CELLS = ("lstm", "gru_reset_before", "attention_lstm")
_MOST_STEPS = 24
_TOGETHER = 32
_KEEP = 3


@dataclass(slots=True)
class SequenceResult:
    """How many sequences were continued and how, and the largest difference of each cell."""

    sequences: int = 0
    steps: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    differences: dict[str, float] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        return max(self.differences.values())


def streaming_cells() -> list[str]:
    """Return the names of everything that can be served step by step."""
    return [name for name in variants() if small_network(name).streams]


def export_cells(folder: Path, cells: Sequence[str]) -> dict[str, Network]:
    """Write an artefact of each cell's small network; return the networks."""
    networks = {name.replace("_", "-"): small_network(name) for name in cells}
    for name, network in networks.items():
        export_network(network, folder, name, 1)
    return networks


async def continue_sequences(
    service: InProcess,
    networks: dict[str, Network],
    count: int,
    seed: int = 1,
    progress: Callable[[int], None] = lambda sequences: None,
) -> SequenceResult:
    """Run `count` sequences, the models taking turns, and compare each with torch's uninterrupted run of it."""
    rng, result = Random(seed), SequenceResult(differences=dict.fromkeys(networks, 0.0))
    names = list(networks)
    while result.sequences < count:
        name = names[result.sequences // _TOGETHER % len(names)]
        together = min(_TOGETHER, count - result.sequences)
        inputs = np.random.default_rng(rng.getrandbits(32)).normal(
            size=(together, _MOST_STEPS, networks[name].config.input_size)
        )
        sequences = [row[: rng.randint(2, _MOST_STEPS)].astype(np.float32) for row in inputs]
        runs = [_Run(service, name, each, Random(rng.random()), result.ways) for each in sequences]
        outputs = await asyncio.gather(*[run.outputs() for run in runs])
        with torch.no_grad():
            expected, _ = networks[name](torch.from_numpy(inputs.astype(np.float32)))
        for row, got in enumerate(outputs):
            difference = float(np.abs(got - expected[row, : len(got)].numpy()).max())
            result.differences[name] = max(result.differences[name], difference)
        result.sequences += together
        result.steps += sum(map(len, sequences))
        progress(together)
    return result


class _Run:
    """One sequence on its way through sessions; `_at` steps are taken in the present one."""

    def __init__(self, service: InProcess, model: str, inputs: np.ndarray, rng: Random, ways: Counter[str]) -> None:
        self._service, self._model, self._inputs, self._rng, self._ways = service, model, inputs, rng, ways
        self._path, self._at = "", 0

    async def outputs(self) -> np.ndarray:
        """Return the outputs (steps, outputs) of the whole sequence."""
        parts: list[np.ndarray] = []
        self._enter(await self._service.open(self._model, b'{"keep":%d}' % _KEEP))
        while self._at < len(self._inputs):
            parts.append(await self._step())
            way = self._rng.randrange(8)
            if way == 0:
                await self._fork()
            elif way == 1:
                await self._restore_elsewhere()
            elif way == 2:
                await self._restore_here()
            elif way == 3:
                self._ways["rewound"] += 1
                told = await self._ask("POST", "/rewind", b'{"requests":1}')
                self._at = int(told["step"])
                parts.pop()
            elif way == 4 and self._at < len(self._inputs):
                await self._peek()
        await self._service.send("DELETE", self._path)
        return np.concatenate(parts)

    async def _step(self, verb: str = "steps") -> np.ndarray:
        chunk = self._inputs[self._at : self._at + self._rng.randint(1, 6)]
        headers = {**OCTETS, "x-step": str(self._at + 1)}
        answer = await self._service.send("POST", f"{self._path}/{verb}", chunk.tobytes(), headers)
        if answer.status != 200 or int(answer.headers["x-step"]) != self._at + len(chunk):
            raise RuntimeError(f"{self._model}: answered {answer}")
        if verb == "steps":
            self._at += len(chunk)
        return np.frombuffer(answer.body, "<f4").reshape(len(chunk), -1)

    async def _peek(self) -> None:
        self._ways["peeked"] += 1
        await self._step("peek")

    async def _fork(self) -> None:
        self._ways["forked"] += 1
        told = await self._ask("POST", "/fork")
        await self._leave()
        self._enter(told["session_id"])

    async def _restore_elsewhere(self) -> None:
        self._ways["restored in another session"] += 1
        snapshot = await self._service.send("GET", f"{self._path}/state")
        await self._leave()
        other = await self._service.open(self._model, b'{"keep":%d}' % _KEEP)
        self._enter(other)
        await self._ask("PUT", "/state", snapshot.body, OCTETS)

    async def _restore_here(self) -> None:
        """Restore a snapshot after going on from it."""
        self._ways["restored"] += 1
        snapshot = await self._service.send("GET", f"{self._path}/state")
        await self._ask("POST", "/steps", b'{"inputs":[%b]}' % _json(self._inputs[0] * 2))
        await self._ask("PUT", "/state", snapshot.body, OCTETS)

    async def _leave(self) -> None:
        """Step the session somewhere else, which must not matter any more, and end it."""
        await self._ask("POST", "/steps", b'{"inputs":[%b]}' % _json(self._inputs[-1] * 3))
        await self._service.send("DELETE", self._path)

    def _enter(self, session: object) -> None:
        self._path = f"/v1/sessions/{session}"

    async def _ask(
        self, method: str, verb: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> dict[str, int | str]:
        answer = await self._service.send(method, self._path + verb, body, headers)
        if answer.status not in (200, 201):
            raise RuntimeError(f"{self._model}: {method} {verb} answered {answer}")
        told: dict[str, int | str] = answer.json()
        return told


def _json(row: np.ndarray) -> bytes:
    return repr(row.tolist()).encode()
