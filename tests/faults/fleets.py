"""A client that steps many sessions by one request, each row with its own number."""

import asyncio
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.faults.accumulator import NAME
from tests.faults.clients import Client, Goal, Gone, Wire, pause, refused
from tests.faults.history import ANSWERED, TRANSIENT, UNANSWERED, Attempt, Event, Opened
from tests.faults.walk import MOST_INPUTS, Walk

ROWS = 16
Row = tuple[int, tuple[int, ...]]
"""A request of one session: the first step and the inputs."""


class FleetClient(Client):
    """Walks many sessions side by side; rows that were not answered go into a later request with the same numbers.

    With `named` the sessions are opened by the fleet step itself, under names of the client's. `_failed` counts the
    requests since the last one of which a row was answered.
    """

    def __init__(
        self, wire: Wire, history: list[Event], goal: Goal, rng: Random, *, named: bool = False, rows: int = ROWS
    ) -> None:
        super().__init__(wire, history, goal, rng)
        self._named, self._rows, self._failed = named, rows, 0

    async def run(self) -> None:
        """Keep the fleet full until the goal is reached, and every row answered."""
        walks: list[Walk] = []
        waiting: dict[str, Row] = {}
        while not self.goal.over or waiting:
            while len(walks) < self._rows and not self.goal.over:
                walks.append(self._name() if self._named else await self.open())
            gone = await self._step(self._choose(walks, waiting), waiting)
            for walk in [each for each in walks if each.session in gone or not each.left]:
                if walk.session not in waiting:
                    walks.remove(walk)
                    await self._look(walk, gone)
        for walk in walks:
            await self._look(walk, set())

    def _choose(self, walks: list[Walk], waiting: dict[str, Row]) -> list[Walk]:
        """Return whose rows go into the next request; those that do not wait for an answer get new inputs."""
        if self.goal.over:
            return [walk for walk in walks if walk.session in waiting]
        most = self.rng.choice((1, 1, 4))
        chosen = self.rng.sample(walks, self.rng.randint(1, len(walks)))
        for walk in chosen:
            if walk.session not in waiting:
                waiting[walk.session] = walk.step + 1, walk.draw(most)
        return chosen

    def _name(self) -> Walk:
        session = f"unit {self.rng.getrandbits(64):x}"
        self.history.append(Opened(session))
        return Walk(session, self.rng, self.rng.randint(100, MOST_INPUTS))

    async def _look(self, walk: Walk, gone: set[str]) -> None:
        if walk.session not in gone and not self._named:
            try:
                await self.finish(walk)
            except Gone:
                return

    async def _step(self, walks: Sequence[Walk], waiting: dict[str, Row]) -> set[str]:
        """Send one fleet step; return the sessions that are gone."""
        rows = [waiting[walk.session] for walk in walks]
        gone: set[str] = set()
        attempts = await self._send(walks, rows)
        self._failed = 0 if any(attempt.outcome == ANSWERED for attempt in attempts) else self._failed + 1
        for walk, attempt in zip(walks, attempts, strict=True):
            self.history.append(attempt)
            if attempt.outcome == ANSWERED:
                first, inputs = waiting.pop(walk.session)
                walk.taken(first, inputs)
                self.goal.add(len(inputs))
            elif attempt.outcome != UNANSWERED and attempt.outcome not in TRANSIENT:
                del waiting[walk.session]
                gone.add(walk.session)
        if self._failed:
            await asyncio.sleep(pause(self._failed))
        return gone

    async def _send(self, walks: Sequence[Walk], rows: list[Row]) -> list[Attempt]:
        body = {
            "sessions": [walk.session for walk in walks],
            "inputs": [[[value] for value in inputs] for _, inputs in rows],
            "steps": [first for first, _ in rows],
            "create": self._named,
        }
        pairs = list(zip(walks, rows, strict=True))
        try:
            answer = await self.wire.faulty.send("POST", f"/v1/models/{NAME}/fleet", json.dumps(body).encode())
        except OSError:
            return [Attempt(walk.session, *row, UNANSWERED) for walk, row in pairs]
        told: dict[str, Any] = answer.json()
        if answer.status != 200:
            return [refused(walk.session, *row, told) for walk, row in pairs]
        errors = {error["row"]: error for error in told["errors"]}
        attempts = []
        for at, (walk, row) in enumerate(pairs):
            if at in errors:
                attempts.append(refused(walk.session, *row, errors[at]))
            else:
                outputs = tuple(output[0] for output in told["outputs"][at])
                replayed = at in told["replayed"]
                attempts.append(Attempt(walk.session, *row, ANSWERED, outputs, told["steps"][at], replayed))
        return attempts
