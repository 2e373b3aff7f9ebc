"""A stream: one WebSocket and its session, whose frames are answered one after the other."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import orjson

from service.api.frames import FrameFormat
from service.api.handler import Handler
from service.api.request import EPOCH, REQUEST_ID, STEP, Call, Headers, Message, OperationOf, Send
from service.errors import ServiceError
from service.sessions.session import Session
from service.sessions.steps import Steps
from service.sessions.table import SessionTable

_FrameReply = tuple[int, Message | ServiceError]
"""The status that a frame is counted with, and its reply or why there is none."""


class Stream:
    """One socket and its session; `call` is its handshake, authenticated, and names the session.

    A frame is being answered while `_busy`; nothing is sent once `_ended`. `_quiet` is set once somebody waits for that
    reply in order to end the stream: no further frame is taken then.
    """

    def __init__(
        self,
        session: Session,
        frames: FrameFormat,
        call: Call,
        handler: Handler,
        table: SessionTable,
        steps: Steps,
        send: Send,
    ) -> None:
        self.session, self._frames, self._call, self._send = session, frames, call, send
        self._handler, self._table, self._steps = handler, table, steps
        self._operation = OperationOf("frame", self._take, _refused)
        self._accepted = self._busy = self._ended = False
        self._quiet: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._ended

    async def accept(self) -> None:
        """Accept the handshake; its reply names the session, its last step and its epoch."""
        self._accepted = True
        headers: Headers = [
            (b"x-session-id", self.session.id.encode()),
            (STEP, b"%d" % self.session.step),
            (EPOCH, b"%d" % self.session.epoch),
            (REQUEST_ID, self._call.request_id),
        ]
        await self._send({"type": "websocket.accept", "headers": headers})

    async def end(self, code: int, reason: Callable[[Session], str]) -> None:
        """Close the socket, after the reply to a frame that is being answered."""
        if self._busy:
            self._quiet = self._quiet or asyncio.get_running_loop().create_future()
            await self._quiet
        if not self._ended:
            self._ended = True
            if not self._accepted:
                return
            with suppress(OSError):  # the client has closed the connection before
                await self._send({"type": "websocket.close", "code": code, "reason": reason(self.session)})

    async def answer_frames(self) -> None:
        """Answer frames one after the other until the socket is closed."""
        receive = self._call.receive
        try:
            while (message := await receive())["type"] == "websocket.receive":
                if not self._ended and self._quiet is None:  # what comes while it ends is not taken
                    self._busy = True
                    await self._answer(message)
                    self._rest()
        finally:
            self._ended = True
            self._rest()

    async def _answer(self, message: Message) -> None:
        frame = message.get("bytes")
        _, reply = await self._handler.run(self._operation, self._call, message["text"] if frame is None else frame)
        if not isinstance(reply, ServiceError):
            await self._send(reply)
            return
        await self._send({"type": "websocket.send", "text": orjson.dumps(reply.body()).decode()})
        await asyncio.sleep(0)  # most refusals wait for nothing: others may run between two of them
        if reply.close is not None:
            self._ended = True
            await self._send({"type": "websocket.close", "code": reply.close, "reason": reply.code})

    async def _take(self, call: Call, frame: bytes | str) -> _FrameReply:
        """Advance the session by a frame, and return the frame that answers."""
        session_id, tenant = call.argument, call.tenant
        session = self._table.resident(session_id, tenant) or await self._table.load(session_id, tenant)
        result = await self._steps.take(tenant, self._frames.read(session_id, session.model.codec, frame))
        return 200, self._frames.write(result)

    def _rest(self) -> None:
        self._busy = False
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)


def _refused(error: ServiceError) -> _FrameReply:
    return error.status, error
