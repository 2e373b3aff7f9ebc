"""A cursor: a session's step and epoch as this client knows them, and the calls that depend on them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from cellstream_client import calls
from cellstream_client.calls import Call, session_path
from cellstream_client.errors import SessionGone, SessionNotFound
from cellstream_client.values import Inputs, Outputs, Row, SessionInfo, encode, one_row, one_step

T = TypeVar("T")


class Cursor:
    """Hold a session's id, and its step and epoch as of the last response.

    `step` and `epoch` change only when a response is read. After a request without a response, the next call carries
    the same step number again, by which the service recognises it.
    """

    def __init__(self, info: SessionInfo) -> None:
        self.session_id = info.session_id
        self.model = info.model
        self.update(info)

    def update(self, info: SessionInfo) -> SessionInfo:
        """Set step, epoch and keep to those that the service reports, and return `info`."""
        self.step, self.epoch, self.keep = info.step, info.epoch, info.keep
        return info

    def read_step(self, answer: dict[str, Any]) -> Outputs:
        """Set the step to that of an answer, and return the answer's outputs."""
        self.step = answer["step"]
        return answer["outputs"]

    def steps(self, inputs: Inputs) -> Call[Outputs]:
        """Take the steps of a chunk, numbered from the next step."""
        content = numbered(encode(inputs), self.step + 1, self.epoch).encode()
        return self._post("/steps", lambda response: self.read_step(response.json()), content)

    def single_step(self, inputs: Any) -> Call[Row]:
        """Take one step."""
        content = numbered(encode(one_step(inputs)), self.step + 1, self.epoch).encode()
        return self._post("/steps", lambda response: one_row(self.read_step(response.json())), content)

    def peek(self, inputs: Inputs) -> Call[Outputs]:
        """Return the outputs that a chunk would have, without taking its steps."""

        def read(response: httpx.Response) -> Outputs:
            return response.json()["outputs"]

        return self._post("/peek", read, calls.body(inputs=inputs))

    def fork(self, idle_limit: float | None, keep: int | None) -> Call[SessionInfo]:
        """Copy the session; by its idempotency key, sending the call again makes no second copy."""
        content = calls.body(idle_limit=idle_limit, keep=keep)
        return self._post("/fork", calls.session_info, content, calls.idempotency_key())

    def rewind(self, requests: int) -> Call[SessionInfo]:
        """Undo the last requests; since it names the epoch, sending the call again rewinds once."""
        content = calls.body(requests=requests, epoch=self.epoch)
        return self._post("/rewind", self._read_info, content)

    def snapshot(self) -> Call[bytes]:
        return Call("GET", session_path(self.session_id, "/state"), lambda response: response.content)

    def restore(self, state: bytes) -> Call[SessionInfo]:
        """Replace the session's state; sent twice it raises the epoch twice, and the response holds the epoch."""
        return Call("PUT", session_path(self.session_id, "/state"), self._read_info, state, calls.OCTETS)

    def extend(self, idle_limit: float) -> Call[SessionInfo]:
        content = calls.body(idle_limit=idle_limit)
        return Call("PATCH", session_path(self.session_id), calls.session_info, content)

    def close(self) -> Call[None]:
        """End the session; it is no error if it has ended already."""
        return Call("DELETE", session_path(self.session_id), calls.no_result, accepted=(SessionGone, SessionNotFound))

    def _read_info(self, response: httpx.Response) -> SessionInfo:
        return self.update(calls.session_info(response))

    def _post(
        self, rest: str, read: Callable[[httpx.Response], T], content: bytes, headers: Mapping[str, str] | None = None
    ) -> Call[T]:
        return Call("POST", session_path(self.session_id, rest), read, content, headers=headers or {})


class SessionBase:
    """Base class of sessions and streams: the session's id, step and epoch."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    @property
    def session_id(self) -> str:
        return self._cursor.session_id

    @property
    def last_step(self) -> int:
        """Number of steps taken, as of the last response."""
        return self._cursor.step

    @property
    def epoch(self) -> int:
        """Number of times the state was rewound or restored, as of the last response."""
        return self._cursor.epoch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} at step {self.last_step}, epoch {self.epoch}>"


def numbered(inputs: str, first: int, epoch: int) -> str:
    """Return the JSON body of a steps request; `inputs` is JSON text, `first` the number of its first step."""
    return f'{{"inputs":{inputs},"step":{first},"epoch":{epoch}}}'
