"""The formats of WebSocket frames: JSON, raw tensors, and raw tensors behind a head with a step number."""

import struct
from typing import Protocol

from service.api.request import Message
from service.api.step_bodies import StepBodies
from service.codec.codec import Codec
from service.errors import InvalidInput
from service.sessions.steps import StepRequest, StepResult

HEAD = struct.Struct("<QII")
"""The head of a framed message: step, flags, payload bytes. In: the first step, or 0; out: the last one."""
REPLAYED_FLAG = 1
"""The flag of a framed reply that is a stored answer."""


class FrameFormat(Protocol):
    """Decodes the frames of one stream into requests, and encodes results as frames."""

    def read(self, session_id: str, codec: Codec, frame: bytes | str) -> StepRequest:
        """Read a binary or a text frame; raises MalformedJson, InvalidInput."""

    def write(self, result: StepResult) -> Message:
        """Return the frame that answers."""


class JsonFrames:
    """Frames that are the bodies of step requests and replies."""

    def __init__(self, bodies: StepBodies) -> None:
        self._bodies = bodies

    def read(self, session_id: str, codec: Codec, frame: bytes | str) -> StepRequest:
        return self._bodies.read_json(session_id, codec, frame.encode() if isinstance(frame, str) else frame)

    def write(self, result: StepResult) -> Message:
        return {"type": "websocket.send", "text": self._bodies.write_json(result).decode()}


class BinaryFrames:
    """Frames that are raw little-endian tensors, (steps, *shape) in and out; their steps are unnumbered."""

    def __init__(self, bodies: StepBodies) -> None:
        self._bodies = bodies

    def read(self, session_id: str, codec: Codec, frame: bytes | str) -> StepRequest:
        return self._bodies.read_raw(session_id, codec, _binary(frame, "binary"))

    def write(self, result: StepResult) -> Message:
        return {"type": "websocket.send", "bytes": self._bodies.write_raw(result)}


class FramedFrames:
    """Raw tensors behind a head, which numbers the first step of a request and the last one of a reply."""

    def __init__(self, bodies: StepBodies) -> None:
        self._bodies = bodies

    def read(self, session_id: str, codec: Codec, frame: bytes | str) -> StepRequest:
        number, payload = _split(_binary(frame, "framed"))
        return self._bodies.read_raw(session_id, codec, payload, number)

    def write(self, result: StepResult) -> Message:
        tensor = self._bodies.write_raw(result)
        head = HEAD.pack(result.last_step, REPLAYED_FLAG if result.replayed else 0, len(tensor))
        return {"type": "websocket.send", "bytes": head + tensor}


FORMATS: dict[str, type[JsonFrames | BinaryFrames | FramedFrames]] = {
    "json": JsonFrames,
    "binary": BinaryFrames,
    "framed": FramedFrames,
}


def _binary(frame: bytes | str, name: str) -> bytes:
    if isinstance(frame, str):
        raise InvalidInput("frame", f"a binary frame, as the stream was opened with format={name}", "a text frame")
    return frame


def _split(frame: bytes) -> tuple[int, bytes]:
    """Return a framed message's step and payload."""
    if len(frame) < HEAD.size:
        raise InvalidInput("frame", f"a head of {HEAD.size} bytes and a tensor", f"{len(frame)} bytes")
    number, flags, size = HEAD.unpack_from(frame)
    if flags:
        raise InvalidInput("frame.flags", "0", str(flags))
    if size != len(frame) - HEAD.size:
        raise InvalidInput("frame.payload_bytes", f"{len(frame) - HEAD.size}, as many as follow", str(size))
    if number >= 1 << 63:
        raise InvalidInput("frame.step", "a whole number up to 2^63 - 1", str(number))
    return number, frame[HEAD.size :]
