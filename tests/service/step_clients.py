"""Clients that send steps without a socket, one for each encoding; all return the same kinds of results."""

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
    "tenant_full": 429,
}


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step to be sent: float32 inputs (T, features) as raw bytes, and its step number and epoch."""

    inputs: bytes
    number: Any = None
    epoch: Any = None

    def rows(self, features: int) -> list[Any]:
        rows: list[Any] = np.frombuffer(self.inputs, "<f4").reshape(-1, features).tolist()
        return rows


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """The answer to a step: float32 outputs as raw bytes, the index of its last step, and whether it was replayed."""

    outputs: bytes
    step: int
    replayed: bool


@dataclass(unsafe_hash=True)
class Refused(Exception):
    """An error: its code, and the number in its details if it has one."""

    code: str
    detail: int | None = None

    @classmethod
    def read(cls, body: dict[str, Any]) -> "Refused":
        return cls(body["code"], next((body[name] for name in DETAILS if name in body), None))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def refusal(self) -> Refused | None:
        """Return its error, None if it is none; the status must be that of the code."""
        if self.status < 400:
            return None
        refused = Refused.read(self.json())
        assert self.status == STATUSES[refused.code], self
        return refused


@dataclass
class ApiClient:
    """Calls a service's ASGI callable; `headers` are sent with each request."""

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


SendStep = Callable[[ApiClient, str, StepSpec], Coroutine[Any, Any, StepAnswer | Refused]]


async def send_json(client: ApiClient, session: str, spec: StepSpec, verb: str = "steps") -> StepAnswer | Refused:
    """Send a step as a JSON body {"inputs", "step", "epoch"}."""
    body = {"inputs": spec.rows(client.features), **_given(step=spec.number, epoch=spec.epoch)}
    answer = await client.send("POST", f"/v1/sessions/{session}/{verb}", body)
    if (refused := answer.refusal()) is not None:
        return refused
    fields = answer.json()
    assert list(fields) == ["outputs", "step", "replayed"]
    return StepAnswer(_floats(fields["outputs"]), fields["step"], fields["replayed"])


async def send_raw(client: ApiClient, session: str, spec: StepSpec, verb: str = "steps") -> StepAnswer | Refused:
    """Send a step as a raw tensor, with its number and epoch in headers."""
    given = _given(**{"x-step": spec.number, "x-epoch": spec.epoch})
    headers = {"content-type": OCTETS, **{name: str(value) for name, value in given.items()}}
    answer = await client.send("POST", f"/v1/sessions/{session}/{verb}", spec.inputs, headers)
    if (refused := answer.refusal()) is not None:
        return refused
    assert answer.headers["content-type"] == OCTETS
    assert answer.headers["x-replayed"] in ("true", "false")
    return StepAnswer(answer.body, int(answer.headers["x-step"]), answer.headers["x-replayed"] == "true")


async def send_fleet_row(client: ApiClient, session: str, spec: StepSpec) -> StepAnswer | Refused:
    """Send a step as the only row of a JSON fleet request."""
    return _single_row(await send_fleet(client, [session], [spec]))


async def send_framed_row(client: ApiClient, session: str, spec: StepSpec) -> StepAnswer | Refused:
    """Send a step as the only row of a framed fleet request."""
    return _single_row(await send_fleet(client, [session], [spec], framed=True))


ENCODINGS: dict[str, SendStep] = {
    "json": send_json,
    "octets": send_raw,
    "fleet row": send_fleet_row,
    "framed row": send_framed_row,
}


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """The answer or error of each row, and the rows whose sessions were opened."""

    rows: list[StepAnswer | Refused]
    created: list[int]


async def send_fleet(
    client: ApiClient, keys: list[str], specs: list[StepSpec], *, framed: bool = False, create: bool = False
) -> FleetAnswer | Refused:
    """Send a fleet request in JSON or framed; the steps of a framed one must be equally long."""
    path, fields = f"/v1/models/{client.model}/fleet", {"sessions": keys, "create": create}
    given = {"steps": [spec.number for spec in specs], "epochs": [spec.epoch for spec in specs]}
    fields |= {name: values for name, values in given.items() if any(value is not None for value in values)}
    if not framed:
        fields["inputs"] = [spec.rows(client.features) for spec in specs]
        answer = await client.send("POST", path, fields)
        if (refused := answer.refusal()) is not None:
            return refused
        notes = answer.json()
        return _by_row(notes, notes["outputs"])
    raw = b"".join(spec.inputs for spec in specs)
    shape = [len(specs), len(raw) // len(specs) // client.features // 4, client.features]
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({**fields, "inputs": [tensor]}).encode()
    answer = await client.send("POST", path, head + raw, {HEAD_LENGTH: str(len(head))})
    if (refused := answer.refusal()) is not None:
        return refused
    length = int(answer.headers[HEAD_LENGTH])
    notes = json.loads(answer.body[:length])
    outputs = np.frombuffer(answer.body[length:], "<f4").reshape(notes["outputs"][0]["shape"])
    return _by_row(notes, outputs)


def _by_row(notes: dict[str, Any], outputs: Any) -> FleetAnswer:
    errors = {error["row"]: Refused.read(error) for error in notes["errors"]}
    replayed: list[int] = notes["replayed"]
    rows: list[StepAnswer | Refused] = []
    for row, (values, step) in enumerate(zip(outputs, notes["steps"], strict=True)):
        assert (step is None) == (row in errors)
        rows.append(errors[row] if row in errors else StepAnswer(_floats(values), step, row in replayed))
    return FleetAnswer(rows, notes["created"])


def _single_row(answer: FleetAnswer | Refused) -> StepAnswer | Refused:
    return answer if isinstance(answer, Refused) else answer.rows[0]


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _floats(value: object) -> bytes:
    return np.array(value, "<f4").tobytes()
