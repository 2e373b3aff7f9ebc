"""When a connection is read, and when not."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """uvicorn's flow control, with one more reason not to read: `held`, while bytes that came wait to be parsed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.held = False

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.held:
                self._transport.resume_reading()

    def hold(self) -> None:
        """Stop reading until `release`."""
        self.held = True
        self._transport.pause_reading()

    def release(self) -> None:
        """Read again, unless there is another reason not to."""
        self.held = False
        if not self.read_paused:
            self._transport.resume_reading()
