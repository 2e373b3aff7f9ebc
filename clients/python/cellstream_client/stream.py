"""A stream: one session's steps over a WebSocket, which is opened again when it is lost."""

from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from cellstream_client.cursor import Cursor, Standing
from cellstream_client.errors import CellstreamError
from cellstream_client.link import Link
from cellstream_client.sockets import lost, stream_path
from cellstream_client.values import Inputs, Outputs, Row, one_row, one_step
from cellstream_client.window import Window


class Stream(Standing):
    """Steps of one session, a frame each. The first step opens the socket; `with` closes it.

    It shares the session's numbers: steps can be taken on either, one at a time.
    """

    def __init__(
        self, link: Link, cursor: Cursor, turn: Lock, *, takeover: bool, on_close: Callable[[bool], None]
    ) -> None:
        super().__init__(cursor)
        self._link, self._turn = link, turn
        self._takeover = takeover
        self._on_close = on_close
        self._window = Window(cursor)
        self._socket: ClientConnection | None = None
        self._sockets = ExitStack()

    def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,)."""
        return one_row(self.steps(one_step(inputs)))

    def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps: (T, features) → (T, outputs).

        Raises:
            CellstreamError: It was not answered. `last_step` is as before, and the same call can be made again.
        """
        with self._turn:
            self._window.add(inputs)
            try:
                return self._link.retrying(self._exchange)
            except BaseException:
                self._drop_if_owed()
                self._window.give_up()
                raise

    def _exchange(self) -> Outputs:
        try:
            socket = self._socket or self._connect()
            while (frame := self._window.next_unsent()) is not None:
                socket.send(frame)
            answer = socket.recv(self._link.service.timeout)
        except (OSError, WebSocketException) as exc:
            self._drop()
            raise lost(exc) from exc
        try:
            return self._window.read(answer)
        except CellstreamError:
            self._drop_if_owed()
            raise

    def _connect(self) -> ClientConnection:
        url = self._link.service.stream_url(stream_path(self.session_id, takeover=self._takeover))
        socket: ClientConnection = self._sockets.enter_context(connect(url, **self._link.service.stream_options()))
        self._socket, self._takeover = socket, True
        self._window.connected()
        return socket

    def _drop_if_owed(self) -> None:
        """Drop a socket on which answers are still to come that nobody waits for."""
        if self._window.sent:
            self._drop()

    def _drop(self) -> None:
        self._socket = None
        self._window.lost()
        self._sockets.close()

    def close(self) -> None:
        """Close the socket; the session stays, unless the stream opened it."""
        self._close(True)

    def _close(self, patient: bool) -> None:
        with self._turn:
            self._drop()
        self._on_close(patient)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind is None)
