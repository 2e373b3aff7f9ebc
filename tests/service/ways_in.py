"""The ways in for a step, without a socket: each turns an order into a request, and the answer into what came of it."""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.api.request import App, Message

OCTETS = "application/octet-stream"
HEAD_LENGTH = "inference-header-content-length"
DETAILS = ("expected_step", "epoch", "last_step", "kept")
STATUSES = {
    "epoch_conflict": 409,
    "idempotency_conflict": 409,
    "invalid_input": 422,
    "rewind_too_far": 409,
    "session_closed": 410,
    "session_expired": 410,
    "session_in_use": 409,
    "session_lost": 410,
    "session_not_found": 404,
    "snapshot_corrupt": 422,
    "state_not_finite": 422,
    "step_conflict": 409,
    "step_gap": 409,
    "step_too_old": 409,
    "table_full": 429,
}


@dataclass(frozen=True, slots=True)
class Order:
    """A step to ask for: float32 inputs (T, features) as raw bytes, and what is said of its place."""

    inputs: bytes
    number: Any = None
    epoch: Any = None

    def rows(self, features: int) -> list[Any]:
        rows: list[Any] = np.frombuffer(self.inputs, "<f4").reshape(-1, features).tolist()
        return rows


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was answered: float32 outputs as raw bytes, the index of its last step, and whether it was stored."""

    outputs: bytes
    step: int
    replayed: bool


@dataclass(unsafe_hash=True)
class Refused(Exception):
    """A request that was not: its code, and the one number that comes with some of them."""

    code: str
    detail: int | None = None

    @classmethod
    def read(cls, body: dict[str, Any]) -> "Refused":
        return cls(body["code"], next((body[name] for name in DETAILS if name in body), None))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def refusal(self) -> Refused | None:
        """Return the error it tells of, which must have the status of its code."""
        if self.status < 400:
            return None
        refused = Refused.read(self.json())
        assert self.status == STATUSES[refused.code], self
        return refused


@dataclass
class Wire:
    """Calls a service's ASGI callable for one client; `key` is its API key."""

    app: App
    model: str
    features: int = 1
    headers: dict[str, str] = field(default_factory=dict)

    async def send(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, query: str = ""
    ) -> Answer:
        """Send one request: raw bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        named = {**self.headers, **(headers or {}), "content-length": str(len(content))}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
            "client": None,
            "server": None,
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def collect(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, collect)
        text = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], text, b"".join(part.get("body", b"") for part in sent[1:]))


Way = Callable[[Wire, str, Order], Coroutine[Any, Any, Taken | Refused]]


async def by_json(wire: Wire, session: str, order: Order, verb: str = "steps") -> Taken | Refused:
    """Send {"inputs", "step", "epoch"}."""
    body = {"inputs": order.rows(wire.features), **_said(step=order.number, epoch=order.epoch)}
    answer = await wire.send("POST", f"/v1/sessions/{session}/{verb}", body)
    if (refused := answer.refusal()) is not None:
        return refused
    fields = answer.json()
    assert list(fields) == ["outputs", "step", "replayed"]
    return Taken(_floats(fields["outputs"]), fields["step"], fields["replayed"])


async def by_octets(wire: Wire, session: str, order: Order, verb: str = "steps") -> Taken | Refused:
    """Send the raw tensor, and the numbers in headers."""
    said = _said(**{"x-step": order.number, "x-epoch": order.epoch})
    headers = {"content-type": OCTETS, **{name: str(value) for name, value in said.items()}}
    answer = await wire.send("POST", f"/v1/sessions/{session}/{verb}", order.inputs, headers)
    if (refused := answer.refusal()) is not None:
        return refused
    assert answer.headers["content-type"] == OCTETS
    assert answer.headers["x-replayed"] in ("true", "false")
    return Taken(answer.body, int(answer.headers["x-step"]), answer.headers["x-replayed"] == "true")


async def by_fleet_row(wire: Wire, session: str, order: Order) -> Taken | Refused:
    """Send a fleet of one, as JSON."""
    return _only(await fleet(wire, [session], [order]))


async def by_framed_row(wire: Wire, session: str, order: Order) -> Taken | Refused:
    """Send a fleet of one, as a JSON head and a raw tensor behind it."""
    return _only(await fleet(wire, [session], [order], framed=True))


WAYS: dict[str, Way] = {
    "json": by_json,
    "octets": by_octets,
    "fleet row": by_fleet_row,
    "framed row": by_framed_row,
}


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """What came of each row, and the rows whose sessions were opened."""

    rows: list[Taken | Refused]
    created: list[int]


async def fleet(
    wire: Wire, keys: list[str], orders: list[Order], *, framed: bool = False, create: bool = False
) -> FleetAnswer | Refused:
    """Send a fleet step; framed, its orders must be of the same length."""
    path, fields = f"/v1/models/{wire.model}/fleet", {"sessions": keys, "create": create}
    said = {"steps": [order.number for order in orders], "epochs": [order.epoch for order in orders]}
    fields |= {name: values for name, values in said.items() if any(value is not None for value in values)}
    if not framed:
        fields["inputs"] = [order.rows(wire.features) for order in orders]
        answer = await wire.send("POST", path, fields)
        if (refused := answer.refusal()) is not None:
            return refused
        notes = answer.json()
        return _by_row(notes, notes["outputs"])
    raw = b"".join(order.inputs for order in orders)
    shape = [len(orders), len(raw) // len(orders) // wire.features // 4, wire.features]
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({**fields, "inputs": [tensor]}).encode()
    answer = await wire.send("POST", path, head + raw, {HEAD_LENGTH: str(len(head))})
    if (refused := answer.refusal()) is not None:
        return refused
    length = int(answer.headers[HEAD_LENGTH])
    notes = json.loads(answer.body[:length])
    outputs = np.frombuffer(answer.body[length:], "<f4").reshape(notes["outputs"][0]["shape"])
    return _by_row(notes, outputs)


def _by_row(notes: dict[str, Any], outputs: Any) -> FleetAnswer:
    errors = {error["row"]: Refused.read(error) for error in notes["errors"]}
    replayed: list[int] = notes["replayed"]
    rows: list[Taken | Refused] = []
    for row, (values, step) in enumerate(zip(outputs, notes["steps"], strict=True)):
        assert (step is None) == (row in errors)
        rows.append(errors[row] if row in errors else Taken(_floats(values), step, row in replayed))
    return FleetAnswer(rows, notes["created"])


def _only(answer: FleetAnswer | Refused) -> Taken | Refused:
    return answer if isinstance(answer, Refused) else answer.rows[0]


def _said(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _floats(value: object) -> bytes:
    return np.array(value, "<f4").tobytes()
