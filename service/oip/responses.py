"""Encoding of infer responses: outputs as flat JSON numbers, or as raw bytes after a JSON head."""

import math

import numpy as np
import orjson

from service.api.request import CONTENT_TYPE, JSON, OCTETS, Reply
from service.codec.binary import HEAD_LENGTH
from service.codec.codec import flat_json, to_json
from service.engine.outputs import output_tensor, raw_outputs
from service.oip.model_io import ModelIO
from service.oip.templates import Requested
from service.sessions.steps import StepResult

_JSON = (CONTENT_TYPE, JSON)
_OCTETS = (CONTENT_TYPE, OCTETS)


def sequence_response(io: ModelIO, request_id: str, requested: Requested, result: StepResult) -> Reply:
    """Return the response to steps of one sequence; its parameters give the index of the last step."""
    if result.steps == 1 and len(io.outputs) == 1 and not result.replayed:
        begin = b'{"id":%b,' % orjson.dumps(request_id) if request_id else b"{"
        if requested[0][1]:
            head = begin + io.step_head % result.last_step
            return 200, [_OCTETS, (HEAD_LENGTH, b"%d" % len(head))], head + raw_outputs(result.outputs)
        return 200, [_JSON], begin + io.step_json % (result.last_step, flat_json(result.outputs))
    pieces: list[bytes] = []
    raws: list[bytes] = []
    for index, binary in requested:
        tensor = io.outputs[index]
        if binary:
            raw = (
                raw_outputs(result.outputs) if len(io.outputs) == 1 else output_tensor(result.outputs, index).tobytes()
            )
            raws.append(raw)
            pieces.append(
                b'%b1,%d%b],"parameters":{"binary_data_size":%d}}' % (tensor.head, result.steps, tensor.tail, len(raw))
            )
        else:
            data = flat_json(result.outputs, index)
            pieces.append(b'%b1,%d%b],"data":[%b]}' % (tensor.head, result.steps, tensor.tail, data))
    parameters = b'"step":%d,"replayed":true' if result.replayed else b'"step":%d'
    return _reply(io, request_id, parameters % result.last_step, pieces, raws)


def rows_response(
    io: ModelIO, request_id: str, requested: Requested, tensors: list[np.ndarray], parameters: dict[str, object]
) -> Reply:
    """Return the response for several rows; `tensors` has an array (rows, steps, *shape) for each output."""
    pieces: list[bytes] = []
    raws: list[bytes] = []
    for index, binary in requested:
        tensor, array = io.outputs[index], np.ascontiguousarray(tensors[index])
        head = b"%b%d,%d%b]" % (tensor.head, array.shape[0], array.shape[1], tensor.tail)
        if binary:
            raws.append(array.tobytes())
            pieces.append(b'%b,"parameters":{"binary_data_size":%d}}' % (head, len(raws[-1])))
        else:
            pieces.append(b'%b,"data":%b}' % (head, to_json(array.reshape(math.prod(array.shape)))))
    return _reply(io, request_id, orjson.dumps(parameters)[1:-1], pieces, raws)


def _reply(io: ModelIO, request_id: str, parameters: bytes, outputs: list[bytes], raws: list[bytes]) -> Reply:
    head = b'{%b%b%b,"outputs":[%b]}' % (
        b'"id":%b,' % orjson.dumps(request_id) if request_id else b"",
        io.head,
        b',"parameters":{%b}' % parameters if parameters else b"",
        b",".join(outputs),
    )
    if not raws:
        return 200, [_JSON], head
    return 200, [_OCTETS, (HEAD_LENGTH, b"%d" % len(head))], b"".join((head, *raws))
