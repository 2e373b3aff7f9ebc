"""The binary framing of a request or an answer: a small JSON head, then raw little-endian tensors in its order.

The form is that of the Open Inference Protocol's binary tensor extension: the header
`Inference-Header-Content-Length` gives the bytes of the head, and each tensor's `binary_data_size` its own.
"""

from typing import Any

from service.codec.codec import kind, load_json
from service.errors import InvalidInput

HEAD_LENGTH = b"inference-header-content-length"
DATATYPES = {
    "FP32": "float32",
    "FP16": "float16",
    "FP64": "float64",
    "INT64": "int64",
    "INT32": "int32",
    "BOOL": "bool",
}
DATATYPE_OF = {dtype: datatype for datatype, dtype in DATATYPES.items()}


def split_head(body: bytes, length: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the head and the bytes behind it.

    Raises:
        InvalidInput, MalformedJson: The length is no number, lies beyond the body, or what it spans is no JSON object.
    """
    if not length.isdigit() or len(length) > 12 or int(length) > len(body):
        raise InvalidInput(HEAD_LENGTH.decode(), f"a number of bytes up to the body's {len(body)}", "another value")
    size = int(length)
    head = load_json(body[:size])
    if type(head) is not dict:
        raise InvalidInput("head", "an object", kind(head))
    return head, body[size:]


def declared_shape(tensor: Any, where: str, dtype: str, size: int) -> list[int]:
    """Return the shape that a head gives for a tensor of `size` raw bytes.

    Raises:
        InvalidInput: It is not described by shape, datatype and binary_data_size as the protocol asks.
    """
    if type(tensor) is not dict:
        raise InvalidInput(where, "an object with name, shape, datatype and parameters", kind(tensor))
    shape, datatype, parameters = tensor.get("shape"), tensor.get("datatype"), tensor.get("parameters")
    if type(shape) is not list or not all(type(dim) is int and 0 <= dim < 1 << 40 for dim in shape):
        raise InvalidInput(f"{where}.shape", "an array of lengths", kind(shape))
    if datatype != DATATYPE_OF[dtype]:
        raise InvalidInput(f"{where}.datatype", DATATYPE_OF[dtype], f"{datatype}"[:32])
    if type(parameters) is not dict or parameters.get("binary_data_size") != size:
        raise InvalidInput(f"{where}.parameters.binary_data_size", f"the {size} bytes behind the head", "another value")
    return shape
