"""Clients that send numbered steps until they are answered, and write down everything that they see."""

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
from tests.faults.walk import MOST_INPUTS, Walk
from tests.faults.wire import Answer, Http

FAR = 5_000
"""A step number beyond any that a session here comes to."""
_PROBE = 1
_OPEN = f"/v1/models/{NAME}/sessions"
_OCTETS = "application/octet-stream"
_AGAIN = TRANSIENT | {UNANSWERED, "session_in_use"}


class Goal:
    """How many steps are to be answered, all clients together."""

    def __init__(self, steps: int, progress: Callable[[int], None] = lambda steps: None) -> None:
        self.wanted, self.done, self._progress = steps, 0, progress
        self.over = False

    def add(self, steps: int) -> None:
        self.done += steps
        self.over = self.over or self.done >= self.wanted
        self._progress(steps)


class Gone(Exception):
    """The session cannot be stepped any more; the history says why."""


class Wire:
    """The ways to the service: `faulty` through the proxy, `direct` past it; the same where there is no proxy."""

    def __init__(self, faulty: int, direct: int, timeout: float) -> None:
        """Take the ports of both, and the seconds that a client waits for an answer through the proxy."""
        self.faulty, self.direct = Http(faulty, timeout), Http(direct, 10)

    def close(self) -> None:
        self.faulty.close()
        self.direct.close()

    async def ask(self, http: Http, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request that may be sent again, until it is answered; header names have _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        tries = 0
        while True:
            try:
                answer = await http.send(method, path, body, named)
            except OSError:
                pass
            else:
                if answer.status < 400 or answer.json()["code"] not in _AGAIN:
                    return answer
            tries += 1
            await asyncio.sleep(pause(tries))


class Client:
    """Walks sessions to their ends, one request at a time; a subclass says how a request is sent.

    Without `extras` it sends steps alone: no probes, forks, snapshots, rewinds.
    """

    def __init__(self, wire: Wire, history: list[Event], goal: Goal, rng: Random, *, extras: bool = True) -> None:
        self.wire, self.history, self.goal, self.rng, self._extras = wire, history, goal, rng, extras

    async def run(self) -> None:
        """Walk one session after the other until the goal is reached."""
        while not self.goal.over:
            walk = await self.open(keep=self.rng.choice((0, 0, 4)) if self._extras else 0)
            try:
                await self.walk(walk)
                await self.finish(walk)
            except Gone:
                continue

    async def open(self, keep: int = 0) -> Walk:
        """Open a session, through the proxy."""
        body = json.dumps({"keep": keep}).encode()
        answer = await self.wire.ask(self.wire.faulty, "POST", _OPEN, body, idempotency_key=self._key())
        session = answer.json()["session_id"]
        self.history.append(Opened(session))
        return Walk(session, self.rng, self.rng.randint(100, MOST_INPUTS), keep)

    async def walk(self, walk: Walk) -> None:
        """Step a session to its end, or until the goal is reached."""
        while walk.left > 0 and not self.goal.over:
            await self.step(walk)
            if self._extras and self.rng.random() < 0.06:
                await self.probe(walk)
            if self._extras and self.rng.random() < 0.01:
                await self.branch(walk)
            if walk.keep and self.rng.random() < 0.03:
                await self.rewind(walk)

    async def step(self, walk: Walk) -> None:
        """Send the next request until it is answered."""
        first, inputs, tries = walk.step + 1, walk.draw(), 0
        while True:
            attempt = await self.send(walk, first, inputs)
            self.history.append(attempt)
            if attempt.outcome == ANSWERED:
                walk.taken(first, inputs)
                self.goal.add(len(inputs))
                return
            if attempt.outcome not in _AGAIN:
                raise Gone
            tries += 1
            await asyncio.sleep(pause(tries))

    async def probe(self, walk: Walk) -> None:
        """Send something that must not be taken: the last request, one in its place, an old one, a gap."""
        requests = [walk.requests[-1]] * 3
        first, inputs = requests[0]
        requests.append((first, (inputs[0] + 1, *inputs[1:])))
        requests.append((walk.step + FAR, inputs))
        if len(walk.requests) > 1:
            requests.append(walk.requests[-2])
        self.history.append(await self.send(walk, *self.rng.choice(requests)))

    async def branch(self, walk: Walk) -> None:
        """Fork the session, or open one at its snapshot; walk the new one a little and look at it."""
        if self.rng.random() < 0.5:
            answer = await self.wire.ask(self.wire.faulty, "POST", f"/v1/sessions/{walk.session}/fork")
        else:
            answer = await self.wire.ask(self.wire.faulty, "GET", f"/v1/sessions/{walk.session}/state")
            self._not_refused(answer, walk)
            answer = await self.wire.ask(
                self.wire.faulty, "POST", _OPEN, answer.body, content_type=_OCTETS, idempotency_key=self._key()
            )
        self._not_refused(answer, walk)
        told = answer.json()
        self.history.append(Opened(told["session_id"], walk.session, told["step"]))
        other = walk.branch(told["session_id"], told["step"], self.rng.randint(1, 20))
        while other.left > 0:
            await self.step(other)
        await self.finish(other)

    async def rewind(self, walk: Walk) -> None:
        """Go back by some requests, past the proxy: a rewind that is sent twice goes back twice."""
        requests = self.rng.randint(1, walk.keep)
        if requests > len(walk.requests):
            return
        path = f"/v1/sessions/{walk.session}/rewind"
        answer = await self.wire.ask(self.wire.direct, "POST", path, b'{"requests":%d}' % requests)
        self._not_refused(answer, walk)
        told = answer.json()
        walk.rewound(requests, told["step"], told["epoch"])
        self.history.append(Rewound(walk.session, requests, told["step"]))

    async def finish(self, walk: Walk) -> None:
        """Look at a session for the last time, past the proxy, and close it."""
        path = f"/v1/sessions/{walk.session}"
        described = await self.wire.ask(self.wire.direct, "GET", path)
        self._not_refused(described, walk)
        peeked = await self.wire.ask(self.wire.direct, "POST", f"{path}/peek", b'{"inputs":[[%d]]}' % _PROBE)
        self._not_refused(peeked, walk)
        total = peeked.json()["outputs"][0][0] - _PROBE
        self.history.append(Ended(walk.session, described.json()["step"], total))
        await self.wire.ask(self.wire.direct, "DELETE", path)

    async def send(self, walk: Walk, first: int, inputs: tuple[int, ...]) -> Attempt:
        """Send one numbered request, and return what came of it."""
        raise NotImplementedError

    def _key(self) -> str:
        return f"{self.rng.getrandbits(64):x}"

    def _not_refused(self, answer: Answer, walk: Walk) -> None:
        if answer.status >= 400:
            self.history.append(refused(walk.session, walk.step + 1, (), answer.json()))
            raise Gone


class JsonClient(Client):
    """Steps as JSON bodies."""

    async def send(self, walk: Walk, first: int, inputs: tuple[int, ...]) -> Attempt:
        body = step_body(walk, first, inputs)
        try:
            answer = await self.wire.faulty.send("POST", f"/v1/sessions/{walk.session}/steps", body)
        except OSError:
            return Attempt(walk.session, first, inputs, UNANSWERED)
        return read_json(walk.session, first, inputs, answer.json())


class OctetClient(Client):
    """Steps as raw tensors, their numbers in headers."""

    async def send(self, walk: Walk, first: int, inputs: tuple[int, ...]) -> Attempt:
        headers = {"content-type": _OCTETS, "x-step": str(first)}
        if walk.keep:
            headers["x-epoch"] = str(walk.epoch)
        raw = np.array(inputs, "<f4").tobytes()
        try:
            answer = await self.wire.faulty.send("POST", f"/v1/sessions/{walk.session}/steps", raw, headers)
        except OSError:
            return Attempt(walk.session, first, inputs, UNANSWERED)
        if answer.status != 200:
            return refused(walk.session, first, inputs, answer.json())
        outputs = tuple(np.frombuffer(answer.body, "<f4").tolist())
        last, replayed = int(answer.headers["x-step"]), answer.headers["x-replayed"] == "true"
        return Attempt(walk.session, first, inputs, ANSWERED, outputs, last, replayed)


def step_body(walk: Walk, first: int, inputs: tuple[int, ...]) -> bytes:
    """Return a numbered step as JSON; a session that can be rewound names its epoch too."""
    body: dict[str, Any] = {"inputs": [[value] for value in inputs], "step": first}
    if walk.keep:
        body["epoch"] = walk.epoch
    return json.dumps(body).encode()


def read_json(session: str, first: int, inputs: tuple[int, ...], told: dict[str, Any]) -> Attempt:
    """Return what a step's JSON answer says."""
    if "code" in told:
        return refused(session, first, inputs, told)
    outputs = tuple(row[0] for row in told["outputs"])
    return Attempt(session, first, inputs, ANSWERED, outputs, told["step"], told["replayed"])


def refused(session: str, first: int, inputs: tuple[int, ...], told: dict[str, Any]) -> Attempt:
    """Return what a refusal says."""
    return Attempt(session, first, inputs, told["code"], expected=told.get("expected_step", 0))


def pause(tries: int) -> float:
    """Return the seconds to wait before a request is sent again."""
    return min(0.001 * 2.0**tries, 0.1)
