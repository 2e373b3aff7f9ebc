"""Detection of external data in an ONNX file, read from its protobuf bytes: the service does without onnx."""

from collections.abc import Iterator

# message type → field number → type of the message in that field; only fields that may contain tensors are listed
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA = 13
_DATA_LOCATION = 14


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def has_external_data(data: bytes) -> bool:
    """Return whether any tensor of an ONNX model has its values in another file, or elsewhere in memory.

    Raises:
        WireError: The bytes are not a complete model.
    """
    pending = [("model", 0, len(data))]
    while pending:
        message, start, end = pending.pop()
        for field, value, at, size in _fields(data, start, end):
            if message == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)):
                return True
            inner = _FIELDS[message].get(field)
            if inner is not None and size >= 0:
                pending.append((inner, at, at + size))
    return False


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, value, start, size in bytes); the size of an integer field is -1, the value of others 0."""
    while at < end:
        key, at = _number(data, at, end)
        kind, value, size = key & 7, 0, -1
        if kind == 0:
            value, at = _number(data, at, end)
            yield key >> 3, value, at, size
            continue
        if kind == 2:
            size, at = _number(data, at, end)
        elif kind not in (1, 5):
            raise WireError(f"a field of kind {kind} at byte {at}")
        length = {1: 8, 5: 4}.get(kind, size)
        if at + length > end:
            raise WireError(f"a field at byte {at} is longer than what holds it")
        yield key >> 3, value, at, size
        at += length


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a variable-length integer and the offset of the byte after it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise WireError(f"a number at byte {at} does not end")
