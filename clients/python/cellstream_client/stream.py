"""A stream: the steps of one session over a WebSocket, which is reconnected when the connection is lost."""

from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from cellstream_client.cursor import Cursor, SessionBase
from cellstream_client.errors import CellstreamError
from cellstream_client.link import Link
from cellstream_client.sockets import socket_error, stream_path
from cellstream_client.values import Inputs, Outputs, Row, one_row, one_step
from cellstream_client.window import Window


class Stream(SessionBase):
    """Take steps of one session over a WebSocket, one frame for each call.

    The first step opens the socket; `with` closes it. The stream and its session share their step number, so steps can
    be taken on either, one at a time.
    """

    def __init__(
        self, link: Link, cursor: Cursor, lock: Lock, *, takeover: bool, on_close: Callable[[bool], None]
    ) -> None:
        super().__init__(cursor)
        self._link, self._lock = link, lock
        self._takeover = takeover
        self._on_close = on_close
        self._window = Window(cursor)
        self._socket: ClientConnection | None = None
        self._sockets = ExitStack()

    def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,). The errors are those of `steps`."""
        return one_row(self.steps(one_step(inputs)))

    def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps in one frame: (T, features) → (T, outputs).

        Raises:
            StreamTaken: Another WebSocket streams the session.
            CellstreamError: Any error that `Session.steps` raises. After Unavailable, `last_step` is unchanged, and the
                same call can be made again.
        """
        with self._lock:
            self._window.add(inputs)
            try:
                return self._link.retrying(self._exchange)
            except BaseException:
                self._drop_if_unread()
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
            raise socket_error(exc) from exc
        try:
            return self._window.read(answer)
        except CellstreamError:
            self._drop_if_unread()
            raise

    def _connect(self) -> ClientConnection:
        url = self._link.service.stream_url(stream_path(self.session_id, takeover=self._takeover))
        socket: ClientConnection = self._sockets.enter_context(connect(url, **self._link.service.stream_options()))
        self._socket, self._takeover = socket, True
        self._window.connected()
        return socket

    def _drop_if_unread(self) -> None:
        """Drop the socket if answers that will not be read are still to arrive on it."""
        if self._window.sent:
            self._drop()

    def _drop(self) -> None:
        self._socket = None
        self._window.lost()
        self._sockets.close()

    def close(self) -> None:
        """Close the socket, and end the session if the stream was opened by `Client.stream`."""
        self._close(True)

    def _close(self, with_retries: bool) -> None:
        with self._lock:
            self._drop()
        self._on_close(with_retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind is None)
