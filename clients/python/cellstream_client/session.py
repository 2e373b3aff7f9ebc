"""A session: one live sequence, whose state the service carries from step to step."""

from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Any, Self

from cellstream_client.calls import describe
from cellstream_client.cursor import Cursor, SessionBase
from cellstream_client.errors import CellstreamError
from cellstream_client.link import ONCE, Link
from cellstream_client.stream import Stream
from cellstream_client.values import Inputs, Outputs, Row, SessionInfo


class Session(SessionBase):
    """Take steps of one session, each exactly once; `with` ends the session.

    Every request carries the number of its first step. A request that gets no answer is sent again with the same
    number, by which the service recognises it and takes its steps once. When all attempts fail, `last_step` is
    unchanged: call again with the same inputs. Steps of several threads run one after another.
    """

    def __init__(self, link: Link, info: SessionInfo) -> None:
        super().__init__(Cursor(info))
        self._link = link
        self._lock = Lock()

    def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,). The errors are those of `steps`."""
        with self._lock:
            return self._link.send(self._cursor.single_step(inputs))

    def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps in one request, all of them or none: (T, features) → (T, outputs).

        Raises:
            InvalidInput: The inputs do not match the model card.
            StateNotFinite: The steps would make the state infinite or NaN.
            StepOutOfOrder, EpochConflict: Another client has changed the session.
            SessionNotFound, SessionGone: The session has ended.
            Unavailable: All attempts failed. `last_step` is unchanged, and the same call can be made again.
        """
        with self._lock:
            return self._link.send(self._cursor.steps(inputs))

    def peek(self, inputs: Inputs) -> Outputs:
        """Return the outputs that `steps` would return, (T, features) → (T, outputs), without changing the session."""
        return self._link.send(self._cursor.peek(inputs))

    def fork(self, *, idle_limit: float | None = None, keep: int | None = None) -> "Session":
        """Open another session with the state and step number of this one."""
        return Session(self._link, self._link.send(self._cursor.fork(idle_limit, keep)))

    def rewind(self, requests: int = 1) -> SessionInfo:
        """Undo the last `requests` step requests, and raise the epoch by one.

        Raises:
            RewindTooFar: The session keeps fewer requests (`keep` when it was opened).
            SessionInUse: A step of the session is running.
        """
        with self._lock:
            return self._link.send(self._cursor.rewind(requests))

    def snapshot(self) -> bytes:
        """Return the state as the bytes of a safetensors file, for `restore` and `Client.open`."""
        return self._link.send(self._cursor.snapshot())

    def restore(self, state: bytes) -> SessionInfo:
        """Replace the state and step number by those of a snapshot, and raise the epoch by one.

        Raises:
            SnapshotRefused: The snapshot is damaged or belongs to another model.
            SessionInUse: A step of the session is running.
        """
        with self._lock:
            return self._link.send(self._cursor.restore(state))

    def extend(self, idle_limit: float) -> SessionInfo:
        """Set the idle limit: the session expires `idle_limit` seconds after this or any later request."""
        return self._link.send(self._cursor.extend(idle_limit))

    def describe(self) -> SessionInfo:
        """Return the session as the service reports it; `last_step` and `epoch` of this object do not change."""
        return self._link.send(describe(self.session_id))

    def stream(self, *, takeover: bool = False) -> Stream:
        """Return a stream of this session over a WebSocket; `takeover` closes another WebSocket of this session."""
        return Stream(self._link, self._cursor, self._lock, takeover=takeover, on_close=lambda with_retries: None)

    def owned_stream(self) -> Stream:
        """Return a stream of this session over a WebSocket; closing the stream ends the session."""
        return Stream(self._link, self._cursor, self._lock, takeover=False, on_close=self._end)

    def close(self) -> None:
        """End the session; it is no error if it has ended already."""
        self._link.send(self._cursor.close())

    def _end(self, with_retries: bool) -> None:
        if with_retries:
            self.close()
            return
        with suppress(CellstreamError):  # do not hide the error that is being raised
            self._link.send(self._cursor.close(), ONCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kind is None)
