"""A cursor: where a session stands as far as this client knows, and every call that depends on it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from cellstream_client import calls
from cellstream_client.calls import Call, session_path
from cellstream_client.errors import SessionGone, SessionNotFound
from cellstream_client.values import Inputs, Outputs, Row, SessionInfo, encode, one_row, one_step

T = TypeVar("T")


class Cursor:
    """The session's id, and its step and epoch as last answered.

    `step` and `epoch` change only while an answer is read, so a request without an answer leaves them, and the next
    call carries the same number again: that is what lets the service recognise it.
    """

    def __init__(self, info: SessionInfo) -> None:
        self.session_id = info.session_id
        self.model = info.model
        self.stand(info)

    def stand(self, info: SessionInfo) -> SessionInfo:
        """Take over where the service says that the session stands."""
        self.step, self.epoch, self.keep = info.step, info.epoch, info.keep
        return info

    def read_step(self, answer: dict[str, Any]) -> Outputs:
        """Move to the step that an answer names, and return its outputs."""
        self.step = answer["step"]
        return answer["outputs"]

    def steps(self, inputs: Inputs) -> Call[Outputs]:
        """Take the chunk's steps, from the next one on."""
        content = numbered(encode(inputs), self.step + 1, self.epoch).encode()
        return self._post("/steps", lambda response: self.read_step(response.json()), content)

    def one(self, inputs: Any) -> Call[Row]:
        """Take one step."""
        content = numbered(encode(one_step(inputs)), self.step + 1, self.epoch).encode()
        return self._post("/steps", lambda response: one_row(self.read_step(response.json())), content)

    def peek(self, inputs: Inputs) -> Call[Outputs]:
        """Ask what a chunk's outputs would be."""

        def read(response: httpx.Response) -> Outputs:
            return response.json()["outputs"]

        return self._post("/peek", read, calls.body(inputs=inputs))

    def fork(self, idle_limit: float | None, keep: int | None) -> Call[SessionInfo]:
        """Copy the session; the key makes one copy of all the times that this call is sent."""
        content = calls.body(idle_limit=idle_limit, keep=keep)
        return self._post("/fork", calls.session_info, content, calls.key())

    def rewind(self, requests: int) -> Call[SessionInfo]:
        """Take requests back; the epoch makes one rewind of all the times that this call is sent."""
        content = calls.body(requests=requests, epoch=self.epoch)
        return self._post("/rewind", self._read_stand, content)

    def snapshot(self) -> Call[bytes]:
        return Call("GET", session_path(self.session_id, "/state"), lambda response: response.content)

    def restore(self, state: bytes) -> Call[SessionInfo]:
        """Put a state in the place of the session's; twice is as once but for the epoch, which the answer tells."""
        return Call("PUT", session_path(self.session_id, "/state"), self._read_stand, state, calls.OCTETS)

    def extend(self, idle_limit: float) -> Call[SessionInfo]:
        content = calls.body(idle_limit=idle_limit)
        return Call("PATCH", session_path(self.session_id), calls.session_info, content)

    def close(self) -> Call[None]:
        """End the session; one that has ended already is fine."""
        return Call("DELETE", session_path(self.session_id), calls.nothing, fine=(SessionGone, SessionNotFound))

    def _read_stand(self, response: httpx.Response) -> SessionInfo:
        return self.stand(calls.session_info(response))

    def _post(
        self, rest: str, read: Callable[[httpx.Response], T], content: bytes, headers: Mapping[str, str] | None = None
    ) -> Call[T]:
        return Call("POST", session_path(self.session_id, rest), read, content, headers=headers or {})


class Standing:
    """What sessions and streams tell of where they stand."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    @property
    def session_id(self) -> str:
        return self._cursor.session_id

    @property
    def last_step(self) -> int:
        """Steps taken so far, as last answered."""
        return self._cursor.step

    @property
    def epoch(self) -> int:
        """How often the state was rewound or restored, as last answered."""
        return self._cursor.epoch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} at step {self.last_step}, epoch {self.epoch}>"


def numbered(inputs: str, first: int, epoch: int) -> str:
    """Return the body of a steps request, from inputs that are JSON already."""
    return f'{{"inputs":{inputs},"step":{first},"epoch":{epoch}}}'
