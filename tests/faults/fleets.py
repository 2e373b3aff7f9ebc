"""A client that steps many sessions with one fleet request, each row with its own step number."""

import asyncio
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.faults.accumulator import NAME
from tests.faults.clients import Client, Connections, Goal, SessionGone, pause, refused
from tests.faults.history import ANSWERED, TRANSIENT, UNANSWERED, Attempt, Event, Opened
from tests.faults.session import MAX_INPUTS, ClientSession

ROWS = 16
Row = tuple[int, tuple[int, ...]]
"""A request of one session: the first step and the inputs."""


class FleetClient(Client):
    """Steps many sessions at once; rows without an answer are sent in a later request with the same step numbers.

    With `named` the fleet step itself opens the sessions, by names that the client chooses. `_failed` counts the
    requests since the last one of which a row was answered.
    """

    def __init__(
        self,
        connections: Connections,
        history: list[Event],
        goal: Goal,
        rng: Random,
        *,
        named: bool = False,
        rows: int = ROWS,
    ) -> None:
        super().__init__(connections, history, goal, rng)
        self._named, self._rows, self._failed = named, rows, 0

    async def run(self) -> None:
        """Step sessions, and open new ones for those that end, until the goal is reached and every row is answered."""
        sessions: list[ClientSession] = []
        waiting: dict[str, Row] = {}
        while not self.goal.over or waiting:
            while len(sessions) < self._rows and not self.goal.over:
                sessions.append(self._name() if self._named else await self.open())
            ended = await self._step(self._choose(sessions, waiting), waiting)
            for session in [each for each in sessions if each.id in ended or not each.left]:
                if session.id not in waiting:
                    sessions.remove(session)
                    await self._finish_live(session, ended)
        for session in sessions:
            await self._finish_live(session, set())

    def _choose(self, sessions: list[ClientSession], waiting: dict[str, Row]) -> list[ClientSession]:
        """Return the sessions of the next request; those that are not waiting for an answer get new inputs."""
        if self.goal.over:
            return [session for session in sessions if session.id in waiting]
        longest = self.rng.choice((1, 1, 4))
        chosen = self.rng.sample(sessions, self.rng.randint(1, len(sessions)))
        for session in chosen:
            if session.id not in waiting:
                waiting[session.id] = session.step + 1, session.draw(longest)
        return chosen

    def _name(self) -> ClientSession:
        session_id = f"unit {self.rng.getrandbits(64):x}"
        self.history.append(Opened(session_id))
        return ClientSession(session_id, self.rng, self.rng.randint(100, MAX_INPUTS))

    async def _finish_live(self, session: ClientSession, ended: set[str]) -> None:
        if session.id not in ended and not self._named:
            try:
                await self.finish(session)
            except SessionGone:
                return

    async def _step(self, sessions: Sequence[ClientSession], waiting: dict[str, Row]) -> set[str]:
        """Send one fleet step, and return the ids of the sessions that cannot be stepped any more."""
        rows = [waiting[session.id] for session in sessions]
        ended: set[str] = set()
        attempts = await self._send(sessions, rows)
        self._failed = 0 if any(attempt.outcome == ANSWERED for attempt in attempts) else self._failed + 1
        for session, attempt in zip(sessions, attempts, strict=True):
            self.history.append(attempt)
            if attempt.outcome == ANSWERED:
                first, inputs = waiting.pop(session.id)
                session.taken(first, inputs)
                self.goal.add(len(inputs))
            elif attempt.outcome != UNANSWERED and attempt.outcome not in TRANSIENT:
                del waiting[session.id]
                ended.add(session.id)
        if self._failed:
            await asyncio.sleep(pause(self._failed))
        return ended

    async def _send(self, sessions: Sequence[ClientSession], rows: list[Row]) -> list[Attempt]:
        request = {
            "sessions": [session.id for session in sessions],
            "inputs": [[[value] for value in inputs] for _, inputs in rows],
            "steps": [first for first, _ in rows],
            "create": self._named,
        }
        pairs = list(zip(sessions, rows, strict=True))
        try:
            answer = await self.connections.faulty.send(
                "POST", f"/v1/models/{NAME}/fleet", json.dumps(request).encode()
            )
        except OSError:
            return [Attempt(session.id, *row, UNANSWERED) for session, row in pairs]
        fields: dict[str, Any] = answer.json()
        if answer.status != 200:
            return [refused(session.id, *row, fields) for session, row in pairs]
        errors = {error["row"]: error for error in fields["errors"]}
        attempts = []
        for index, (session, row) in enumerate(pairs):
            if index in errors:
                attempts.append(refused(session.id, *row, errors[index]))
            else:
                outputs = tuple(output[0] for output in fields["outputs"][index])
                replayed = index in fields["replayed"]
                attempts.append(Attempt(session.id, *row, ANSWERED, outputs, fields["steps"][index], replayed))
        return attempts
