"""P5: a sequence that is chunked, forked, restored and rewound next to other sessions gives the outputs of one run."""

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
_MAX_STEPS = 24
_TOGETHER = 32
_KEEP = 3


@dataclass(slots=True)
class SequenceResult:
    """The numbers of sequences, steps and operations, and the largest difference of each cell."""

    sequences: int = 0
    steps: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    differences: dict[str, float] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        return max(self.differences.values())


def streaming_cells() -> list[str]:
    """Return the names of all cells and stacks that can run one step at a time."""
    return [name for name in variants() if small_network(name).streams]


def export_cells(folder: Path, cells: Sequence[str]) -> dict[str, Network]:
    """Write an artefact of a small network of each cell, and return the networks by model name."""
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
    """Run `count` sequences, on each model in turn, and compare each with torch's run over the whole sequence."""
    rng, result = Random(seed), SequenceResult(differences=dict.fromkeys(networks, 0.0))
    names = list(networks)
    while result.sequences < count:
        name = names[result.sequences // _TOGETHER % len(names)]
        together = min(_TOGETHER, count - result.sequences)
        inputs = np.random.default_rng(rng.getrandbits(32)).normal(
            size=(together, _MAX_STEPS, networks[name].config.input_size)
        )
        sequences = [row[: rng.randint(2, _MAX_STEPS)].astype(np.float32) for row in inputs]
        runs = [_Run(service, name, each, Random(rng.random()), result.operations) for each in sequences]
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
    """One sequence that is run in several sessions; the present one has taken its first `_position` steps."""

    def __init__(
        self, service: InProcess, model: str, inputs: np.ndarray, rng: Random, operations: Counter[str]
    ) -> None:
        self._service, self._model, self._inputs, self._rng, self._operations = service, model, inputs, rng, operations
        self._path, self._position = "", 0

    async def outputs(self) -> np.ndarray:
        """Return the outputs (steps, outputs) of the whole sequence."""
        parts: list[np.ndarray] = []
        self._switch_to(await self._service.open(self._model, b'{"keep":%d}' % _KEEP))
        while self._position < len(self._inputs):
            parts.append(await self._step())
            operation = self._rng.randrange(8)
            if operation == 0:
                await self._fork()
            elif operation == 1:
                await self._restore_elsewhere()
            elif operation == 2:
                await self._restore_here()
            elif operation == 3:
                self._operations["rewound"] += 1
                fields = await self._request("POST", "/rewind", b'{"requests":1}')
                self._position = int(fields["step"])
                parts.pop()
            elif operation == 4 and self._position < len(self._inputs):
                await self._peek()
        await self._service.send("DELETE", self._path)
        return np.concatenate(parts)

    async def _step(self, verb: str = "steps") -> np.ndarray:
        chunk = self._inputs[self._position : self._position + self._rng.randint(1, 6)]
        headers = {**OCTETS, "x-step": str(self._position + 1)}
        answer = await self._service.send("POST", f"{self._path}/{verb}", chunk.tobytes(), headers)
        if answer.status != 200 or int(answer.headers["x-step"]) != self._position + len(chunk):
            raise RuntimeError(f"{self._model}: answered {answer}")
        if verb == "steps":
            self._position += len(chunk)
        return np.frombuffer(answer.body, "<f4").reshape(len(chunk), -1)

    async def _peek(self) -> None:
        self._operations["peeked"] += 1
        await self._step("peek")

    async def _fork(self) -> None:
        self._operations["forked"] += 1
        fields = await self._request("POST", "/fork")
        await self._end_session()
        self._switch_to(fields["session_id"])

    async def _restore_elsewhere(self) -> None:
        self._operations["restored in another session"] += 1
        snapshot = await self._service.send("GET", f"{self._path}/state")
        await self._end_session()
        other = await self._service.open(self._model, b'{"keep":%d}' % _KEEP)
        self._switch_to(other)
        await self._request("PUT", "/state", snapshot.body, OCTETS)

    async def _restore_here(self) -> None:
        """Restore a snapshot after taking a further step."""
        self._operations["restored"] += 1
        snapshot = await self._service.send("GET", f"{self._path}/state")
        await self._request("POST", "/steps", b'{"inputs":[%b]}' % _json(self._inputs[0] * 2))
        await self._request("PUT", "/state", snapshot.body, OCTETS)

    async def _end_session(self) -> None:
        """Take another step in the session that is left, which must have no effect on the others, and end it."""
        await self._request("POST", "/steps", b'{"inputs":[%b]}' % _json(self._inputs[-1] * 3))
        await self._service.send("DELETE", self._path)

    def _switch_to(self, session: object) -> None:
        self._path = f"/v1/sessions/{session}"

    async def _request(
        self, method: str, verb: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> dict[str, int | str]:
        answer = await self._service.send(method, self._path + verb, body, headers)
        if answer.status not in (200, 201):
            raise RuntimeError(f"{self._model}: {method} {verb} answered {answer}")
        fields: dict[str, int | str] = answer.json()
        return fields


def _json(row: np.ndarray) -> bytes:
    return repr(row.tolist()).encode()
