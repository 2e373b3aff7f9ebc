"""Whole HTTP requests at random, for each operation of /v1 and /v2, on connections that are kept alive."""

import json
from itertools import chain
from random import Random
from typing import Any

from tests.fuzz.results import ANSWER_SECONDS, Results
from tests.fuzz.values import DATATYPES, changed, encoded, rows, value
from tests.soak.attacks import SESSIONS
from tests.soak.target import Reader, Target

_SESSION_VERBS = ("steps", "peek", "fork", "rewind", "state", "")
_MODEL_VERBS = ("predict", "fleet", "sessions", "")
_GETS: tuple[str, ...] = (
    "/v1/models",
    "/v1/sessions",
    "/v1/sessions?limit=%s",
    "/livez",
    "/readyz",
    "/metrics",
    "/v2",
    "/v2/health/ready",
)
_GETS += ("/v2/models/lstm", "/v2/models/lstm/config", "/v2/models/lstm/stats", "/v2/models/lstm/versions/%s/ready")
_OCTETS = "content-type: application/octet-stream"


class Requests:
    """Makes requests; some name a session that was opened before."""

    def __init__(self, target: Target, rng: Random) -> None:
        self._target, self._rng = target, rng
        self.sessions: list[str] = []

    def next(self) -> bytes:
        """Return the bytes of a request that is complete."""
        kind = self._rng.random()
        if kind < 0.15:
            return self._get()
        if kind < 0.5:
            return self._of_session()
        if kind < 0.75:
            return self._of_model()
        return self._infer()

    def opened(self, body: bytes) -> None:
        """Remember the session that an answer names."""
        try:
            name = json.loads(body)["session_id"]
        except (ValueError, KeyError, TypeError):
            return
        self.sessions.append(str(name))
        del self.sessions[:-20]

    def _body(self, likely: Any) -> bytes:
        rng = self._rng
        kind = rng.random()
        if kind < 0.05:
            return rng.randbytes(rng.randrange(200))
        if kind < 0.3:
            return encoded(rng, value(rng))
        if kind < 0.8:
            return encoded(rng, changed(rng, likely))
        return json.dumps(likely).encode()

    def _get(self) -> bytes:
        path = self._rng.choice(_GETS)
        if "%s" in path:
            path %= self._rng.choice(("1", "0", "-1", "x", "99999999999999999999", "%00", ""))
        return self._target.request(self._rng.choice(("GET", "GET", "POST", "HEAD", "DELETE", "PUT")), path)

    def _of_session(self) -> bytes:
        rng = self._rng
        session = rng.choice(self.sessions) if self.sessions and rng.random() < 0.9 else "r0-none"
        verb = rng.choice(_SESSION_VERBS)
        steps = rows(rng, self._target.features)
        likely = {
            "steps": {"inputs": steps, "step": rng.randrange(1, 9), "epoch": 0},
            "peek": {"inputs": steps},
            "fork": {"keep": rng.randrange(3)},
            "rewind": {"requests": rng.randrange(3)},
            "": {"idle_limit": 60},
        }.get(verb, {})
        method = {"state": rng.choice(("GET", "PUT")), "": rng.choice(("GET", "PATCH", "DELETE"))}.get(verb, "POST")
        headers = []
        if rng.random() < 0.2:
            headers = [_OCTETS, rng.choice(("x-step: 1", "x-step: -1", "x-step: \u00b2", "x-epoch: " + "9" * 30))]
        path = f"/v1/sessions/{session}/{verb}".rstrip("/")
        return self._target.request(method, path, self._body(likely), *headers)

    def _of_model(self) -> bytes:
        rng = self._rng
        verb = rng.choice(_MODEL_VERBS)
        steps = [rows(rng, self._target.features) for _ in range(rng.randrange(1, 3))]
        likely = {
            "predict": {"inputs": steps},
            "fleet": {"sessions": [f"n{rng.randrange(9)}" for _ in steps], "inputs": steps, "create": True},
            "sessions": {"history": steps[0]} if rng.random() < 0.5 else {"idle_limit": 60, "keep": 1},
        }.get(verb, {})
        headers = [_OCTETS] if rng.random() < 0.1 else []
        if rng.random() < 0.1:
            headers.append(f"idempotency-key: {rng.choice(('a', 'b', 'x' * 300))}")
        if rng.random() < 0.1:
            headers.append(f"inference-header-content-length: {rng.choice(('0', '10', '-1', '00005', 'x', '9' * 40))}")
        path = f"/v1/models/{rng.choice(('lstm', 'lstm', 'lstm', 'no', '%00'))}/{verb}".rstrip("/")
        return self._target.request("POST" if verb else "GET", path, self._body(likely), *headers)

    def _infer(self) -> bytes:
        rng, features = self._rng, self._target.features
        if rng.random() < 0.15:
            path = rng.choice(("index", "models/lstm/load", "models/no/load", "models/no/unload"))
            return self._target.post(f"/v2/repository/{path}", self._body({"ready": True, "parameters": {}}))
        steps = rows(rng, features)
        tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, len(steps), features]}
        tensor["data"] = list(chain.from_iterable(steps)) if rng.random() < 0.5 else [steps]
        if rng.random() < 0.2:
            tensor["datatype"] = rng.choice(DATATYPES)
        likely: dict[str, Any] = {"inputs": [tensor], "parameters": {"sequence_id": rng.randrange(5)}}
        for name in ("sequence_start", "sequence_end"):
            if rng.random() < 0.3:
                likely["parameters"][name] = True
        if rng.random() < 0.2:
            likely["id"] = rng.choice(("a", "b", ""))
        if rng.random() < 0.2:
            likely["outputs"] = [{"name": "y", "parameters": {"binary_data": rng.random() < 0.5}}]
        headers = [rng.choice(("accept-encoding: gzip", "content-encoding: gzip", "content-encoding: x"))]
        headers = headers if rng.random() < 0.1 else []
        if rng.random() < 0.1:
            headers.append(f"inference-header-content-length: {rng.choice(('0', '40', '-1', '0' * 5000, '9' * 40))}")
        return self._target.request("POST", "/v2/models/lstm/infer", self._body(likely), *headers)


def send_requests(target: Target, rng: Random, count: int, results: Results) -> None:
    """Send requests one behind the other, and read each answer."""
    requests, connection = Requests(target, rng), target.connect(ANSWER_SECONDS)
    reader = Reader(connection)
    source = "requests"
    for number in range(count):
        wire = requests.next() if number % 50 or len(requests.sessions) > 10 else target.post(SESSIONS)
        try:
            connection.sendall(wire)
            status, body = reader.response(head_only=wire.startswith(b"HEAD"))
            results.answered(source, wire, status, body)
            if status == 201:
                requests.opened(body)
            continue
        except TimeoutError:
            results.hung(source, wire)
        except OSError:
            results.closed(source)
        connection.close()
        connection = target.connect(ANSWER_SECONDS)
        reader = Reader(connection)
    connection.close()
