"""Clients that send numbered steps until they are answered, and record every attempt and its outcome."""

import asyncio
import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from tests.faults.accumulator import NAME
from tests.faults.history import (
    ANSWERED,
    TRANSIENT,
    UNANSWERED,
    Attempt,
    Ended,
    Event,
    Opened,
    Rewound,
)
from tests.faults.session import MAX_INPUTS, ClientSession
from tests.faults.wire import Http, Response

UNREACHED_STEP = 5_000
"""A step number that no session here reaches."""
_PROBE = 1
_OPEN = f"/v1/models/{NAME}/sessions"
_OCTETS = "application/octet-stream"
_RETRIED = TRANSIENT | {UNANSWERED, "session_in_use"}


class Goal:
    """The number of steps that all clients together should have answered; `over` is true once it is reached."""

    def __init__(self, steps: int, progress: Callable[[int], None] = lambda steps: None) -> None:
        self.steps, self.done, self._progress = steps, 0, progress
        self.over = False

    def add(self, steps: int) -> None:
        self.done += steps
        self.over = self.over or self.done >= self.steps
        self._progress(steps)


class SessionGone(Exception):
    """The session cannot be stepped any more; the reason is in the history."""


class Connections:
    """Connections to the service: `faulty` through the proxy, and `direct`; without a proxy both use the same port."""

    def __init__(self, faulty: int, direct: int, timeout: float) -> None:
        """Set the ports of both, and the timeout in seconds of a request through the proxy."""
        self.faulty, self.direct = Http(faulty, timeout), Http(direct, 10)

    def close(self) -> None:
        self.faulty.close()
        self.direct.close()

    async def send_until_answered(
        self, http: Http, method: str, path: str, body: bytes = b"", **headers: str
    ) -> Response:
        """Repeat a request that may be sent again until it is answered; underscores in header names become hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        tries = 0
        while True:
            try:
                answer = await http.send(method, path, body, named)
            except OSError:
                pass
            else:
                if answer.status < 400 or answer.json()["code"] not in _RETRIED:
                    return answer
            tries += 1
            await asyncio.sleep(pause(tries))


class Client:
    """Opens sessions and steps them to their end, one request at a time; a subclass defines how a request is sent.

    Without `extras` it sends only steps: no invalid requests, forks, snapshots or rewinds.
    """

    def __init__(
        self, connections: Connections, history: list[Event], goal: Goal, rng: Random, *, extras: bool = True
    ) -> None:
        self.connections, self.history, self.goal, self.rng, self._extras = connections, history, goal, rng, extras

    async def run(self) -> None:
        """Run one session after another until the goal is reached."""
        while not self.goal.over:
            session = await self.open(keep=self.rng.choice((0, 0, 4)) if self._extras else 0)
            try:
                await self.run_session(session)
                await self.finish(session)
            except SessionGone:
                continue

    async def open(self, keep: int = 0) -> ClientSession:
        """Open a session through the proxy."""
        body = json.dumps({"keep": keep}).encode()
        answer = await self.connections.send_until_answered(
            self.connections.faulty, "POST", _OPEN, body, idempotency_key=self._key()
        )
        session_id = answer.json()["session_id"]
        self.history.append(Opened(session_id))
        return ClientSession(session_id, self.rng, self.rng.randint(100, MAX_INPUTS), keep)

    async def run_session(self, session: ClientSession) -> None:
        """Step a session to its end, or until the goal is reached."""
        while session.left > 0 and not self.goal.over:
            await self.step(session)
            if self._extras and self.rng.random() < 0.06:
                await self.send_invalid(session)
            if self._extras and self.rng.random() < 0.01:
                await self.branch(session)
            if session.keep and self.rng.random() < 0.03:
                await self.rewind(session)

    async def step(self, session: ClientSession) -> None:
        """Send the next request until it is answered."""
        first, inputs, tries = session.step + 1, session.draw(), 0
        while True:
            attempt = await self.send(session, first, inputs)
            self.history.append(attempt)
            if attempt.outcome == ANSWERED:
                session.taken(first, inputs)
                self.goal.add(len(inputs))
                return
            if attempt.outcome not in _RETRIED:
                raise SessionGone
            tries += 1
            await asyncio.sleep(pause(tries))

    async def send_invalid(self, session: ClientSession) -> None:
        """Send a request that must not be taken: the last one again, other content, an older one, or a gap."""
        requests = [session.requests[-1]] * 3
        first, inputs = requests[0]
        requests.append((first, (inputs[0] + 1, *inputs[1:])))
        requests.append((session.step + UNREACHED_STEP, inputs))
        if len(session.requests) > 1:
            requests.append(session.requests[-2])
        self.history.append(await self.send(session, *self.rng.choice(requests)))

    async def branch(self, session: ClientSession) -> None:
        """Open a session by a fork or from a snapshot of this one, take a few steps in it, and finish it."""
        if self.rng.random() < 0.5:
            answer = await self.connections.send_until_answered(
                self.connections.faulty, "POST", f"/v1/sessions/{session.id}/fork"
            )
        else:
            answer = await self.connections.send_until_answered(
                self.connections.faulty, "GET", f"/v1/sessions/{session.id}/state"
            )
            self._require_success(answer, session)
            answer = await self.connections.send_until_answered(
                self.connections.faulty, "POST", _OPEN, answer.body, content_type=_OCTETS, idempotency_key=self._key()
            )
        self._require_success(answer, session)
        fields = answer.json()
        self.history.append(Opened(fields["session_id"], session.id, fields["step"]))
        other = session.branch(fields["session_id"], fields["step"], self.rng.randint(1, 20))
        while other.left > 0:
            await self.step(other)
        await self.finish(other)

    async def rewind(self, session: ClientSession) -> None:
        """Rewind by some requests, not through the proxy: without an epoch, a rewind that is sent twice acts twice."""
        requests = self.rng.randint(1, session.keep)
        if requests > len(session.requests):
            return
        path = f"/v1/sessions/{session.id}/rewind"
        answer = await self.connections.send_until_answered(
            self.connections.direct, "POST", path, b'{"requests":%d}' % requests
        )
        self._require_success(answer, session)
        fields = answer.json()
        session.rewound(requests, fields["step"], fields["epoch"])
        self.history.append(Rewound(session.id, requests, fields["step"]))

    async def finish(self, session: ClientSession) -> None:
        """Record the final step and sum of a session, and close it, not through the proxy."""
        path = f"/v1/sessions/{session.id}"
        described = await self.connections.send_until_answered(self.connections.direct, "GET", path)
        self._require_success(described, session)
        peeked = await self.connections.send_until_answered(
            self.connections.direct, "POST", f"{path}/peek", b'{"inputs":[[%d]]}' % _PROBE
        )
        self._require_success(peeked, session)
        total = peeked.json()["outputs"][0][0] - _PROBE
        self.history.append(Ended(session.id, described.json()["step"], total))
        await self.connections.send_until_answered(self.connections.direct, "DELETE", path)

    async def send(self, session: ClientSession, first: int, inputs: tuple[int, ...]) -> Attempt:
        """Send one numbered request, and return the attempt with its outcome."""
        raise NotImplementedError

    def _key(self) -> str:
        return f"{self.rng.getrandbits(64):x}"

    def _require_success(self, answer: Response, session: ClientSession) -> None:
        if answer.status >= 400:
            self.history.append(refused(session.id, session.step + 1, (), answer.json()))
            raise SessionGone


class JsonClient(Client):
    """Sends steps as JSON bodies."""

    async def send(self, session: ClientSession, first: int, inputs: tuple[int, ...]) -> Attempt:
        body = step_body(session, first, inputs)
        try:
            answer = await self.connections.faulty.send("POST", f"/v1/sessions/{session.id}/steps", body)
        except OSError:
            return Attempt(session.id, first, inputs, UNANSWERED)
        return read_json(session.id, first, inputs, answer.json())


class OctetClient(Client):
    """Sends steps as raw tensors, with their numbers in headers."""

    async def send(self, session: ClientSession, first: int, inputs: tuple[int, ...]) -> Attempt:
        headers = {"content-type": _OCTETS, "x-step": str(first)}
        if session.keep:
            headers["x-epoch"] = str(session.epoch)
        raw = np.array(inputs, "<f4").tobytes()
        try:
            answer = await self.connections.faulty.send("POST", f"/v1/sessions/{session.id}/steps", raw, headers)
        except OSError:
            return Attempt(session.id, first, inputs, UNANSWERED)
        if answer.status != 200:
            return refused(session.id, first, inputs, answer.json())
        outputs = tuple(np.frombuffer(answer.body, "<f4").tolist())
        last, replayed = int(answer.headers["x-step"]), answer.headers["x-replayed"] == "true"
        return Attempt(session.id, first, inputs, ANSWERED, outputs, last, replayed)


def step_body(session: ClientSession, first: int, inputs: tuple[int, ...]) -> bytes:
    """Return a numbered step as JSON, with the epoch if the session can be rewound."""
    body: dict[str, Any] = {"inputs": [[value] for value in inputs], "step": first}
    if session.keep:
        body["epoch"] = session.epoch
    return json.dumps(body).encode()


def read_json(session: str, first: int, inputs: tuple[int, ...], fields: dict[str, Any]) -> Attempt:
    """Return the attempt that a step's JSON answer describes."""
    if "code" in fields:
        return refused(session, first, inputs, fields)
    outputs = tuple(row[0] for row in fields["outputs"])
    return Attempt(session, first, inputs, ANSWERED, outputs, fields["step"], fields["replayed"])


def refused(session: str, first: int, inputs: tuple[int, ...], fields: dict[str, Any]) -> Attempt:
    """Return the attempt that a JSON error describes."""
    return Attempt(session, first, inputs, fields["code"], expected=fields.get("expected_step", 0))


def pause(tries: int) -> float:
    """Return the seconds to wait before a request is sent again."""
    return min(0.001 * 2.0**tries, 0.1)
