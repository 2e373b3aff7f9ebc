"""A session: one live sequence, whose state the service carries from step to step."""

from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Any, Self

from cellstream_client.calls import describe
from cellstream_client.cursor import Cursor, Standing
from cellstream_client.errors import CellstreamError
from cellstream_client.link import ONCE, Link
from cellstream_client.stream import Stream
from cellstream_client.values import Inputs, Outputs, Row, SessionInfo


class Session(Standing):
    """Take steps, each exactly once; `with` ends the session.

    Every request carries the number of its first step. One that got no answer is sent again with the same number, and
    the service, which knows the number, takes it once. When that fails, too, `last_step` has not moved: call again
    with the same inputs. Steps from several threads are taken one after the other.
    """

    def __init__(self, link: Link, info: SessionInfo) -> None:
        super().__init__(Cursor(info))
        self._link = link
        self._turn = Lock()

    def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,)."""
        with self._turn:
            return self._link.send(self._cursor.one(inputs))

    def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps in one request, all of them or none: (T, features) → (T, outputs)."""
        with self._turn:
            return self._link.send(self._cursor.steps(inputs))

    def peek(self, inputs: Inputs) -> Outputs:
        """Return what `steps` would, and keep nothing."""
        return self._link.send(self._cursor.peek(inputs))

    def fork(self, *, idle_limit: float | None = None, keep: int | None = None) -> "Session":
        """Open another session that stands where this one does."""
        return Session(self._link, self._link.send(self._cursor.fork(idle_limit, keep)))

    def rewind(self, requests: int = 1) -> SessionInfo:
        """Take back the last requests, of those that are kept; the epoch is one more.

        Raises:
            RewindTooFar: Fewer are kept (`keep` at opening says how many).
        """
        with self._turn:
            return self._link.send(self._cursor.rewind(requests))

    def snapshot(self) -> bytes:
        """Return the state, as a safetensors file that `restore` and `Client.open` take."""
        return self._link.send(self._cursor.snapshot())

    def restore(self, state: bytes) -> SessionInfo:
        """Put a snapshot in the place of the state; the epoch is one more."""
        with self._turn:
            return self._link.send(self._cursor.restore(state))

    def extend(self, idle_limit: float) -> SessionInfo:
        """Let it stay for so many seconds from now, and from each later use."""
        return self._link.send(self._cursor.extend(idle_limit))

    def describe(self) -> SessionInfo:
        """Ask where it stands; what this object counts stays as it is."""
        return self._link.send(describe(self.session_id))

    def stream(self, *, takeover: bool = False) -> Stream:
        """Go on over a WebSocket; `takeover` ends another one that streams this session."""
        return Stream(self._link, self._cursor, self._turn, takeover=takeover, on_close=lambda patient: None)

    def owned_stream(self) -> Stream:
        """Go on over a WebSocket whose end is the session's, too."""
        return Stream(self._link, self._cursor, self._turn, takeover=False, on_close=self._end)

    def close(self) -> None:
        """End the session; one that has ended already is fine."""
        self._link.send(self._cursor.close())

    def _end(self, patient: bool) -> None:
        if patient:
            self.close()
            return
        with suppress(CellstreamError):  # another error is on its way, and says more
            self._link.send(self._cursor.close(), ONCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kind is None)
