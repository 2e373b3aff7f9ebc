"""Binary bodies of requests and responses: a JSON head, then the raw little-endian tensors that it lists.

The layout is that of the Open Inference Protocol's binary tensor extension: the HTTP header
`Inference-Header-Content-Length` gives the length of the head in bytes, and `binary_data_size` that of each tensor.
"""

from typing import Any

from service.codec.json_values import kind, load_json
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
    """Split a body into its JSON head and the bytes that follow it.

    Raises:
        InvalidInput, MalformedJson: `length` is not a number of bytes within the body, or the head not a JSON object.
    """
    if not length.isdigit() or len(length) > 12 or int(length) > len(body):
        raise InvalidInput(HEAD_LENGTH.decode(), f"a number of bytes up to the body's {len(body)}", "another value")
    size = int(length)
    head = load_json(body[:size])
    if type(head) is not dict:
        raise InvalidInput("head", "an object", kind(head))
    return head, body[size:]


def declared_shape(tensor: Any, where: str, dtype: str, size: int) -> list[int]:
    """Return the shape that a head declares for a tensor of `size` raw bytes.

    Raises:
        InvalidInput: Its shape is not one, or its datatype or binary_data_size is not that of the tensor.
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
