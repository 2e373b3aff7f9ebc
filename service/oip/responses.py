"""Answers: outputs as flat JSON numbers or as raw bytes behind a JSON head."""

import math

import numpy as np
import orjson

from service.api.handler import JSON, Reply
from service.codec.binary import HEAD_LENGTH
from service.codec.codec import flat_json, outputs_of, to_json
from service.engine.work import Chunk
from service.oip.model_io import Form, Wanted

_OCTETS = (b"content-type", b"application/octet-stream")


def answer_sequence(form: Form, request_id: str, wanted: Wanted, chunk: Chunk) -> Reply:
    """Return the answer of one sequence's steps, with the index of the last one among the parameters."""
    if chunk.steps == 1 and len(form.outputs) == 1 and not chunk.replayed:
        begin = b'{"id":%b,' % orjson.dumps(request_id) if request_id else b"{"
        if wanted[0][1]:
            head = begin + form.step_head % chunk.last_step
            return 200, [_OCTETS, (HEAD_LENGTH, b"%d" % len(head))], head + chunk.raw_outputs()
        return 200, [JSON], begin + form.step_json % (chunk.last_step, flat_json(chunk))
    pieces: list[bytes] = []
    raws: list[bytes] = []
    for index, binary in wanted:
        tensor = form.outputs[index]
        if binary:
            raw = chunk.raw_outputs() if len(form.outputs) == 1 else outputs_of(chunk, index).tobytes()
            raws.append(raw)
            pieces.append(
                b'%b1,%d%b],"parameters":{"binary_data_size":%d}}' % (tensor.head, chunk.steps, tensor.tail, len(raw))
            )
        else:
            data = flat_json(chunk, index)
            pieces.append(b'%b1,%d%b],"data":[%b]}' % (tensor.head, chunk.steps, tensor.tail, data))
    noted = b'"step":%d,"replayed":true' if chunk.replayed else b'"step":%d'
    return _reply(form, request_id, noted % chunk.last_step, pieces, raws)


def answer_rows(
    form: Form, request_id: str, wanted: Wanted, tensors: list[np.ndarray], parameters: dict[str, object]
) -> Reply:
    """Return the answer of several rows: for each output of the model an array (rows, steps, *shape)."""
    pieces: list[bytes] = []
    raws: list[bytes] = []
    for index, binary in wanted:
        tensor, array = form.outputs[index], np.ascontiguousarray(tensors[index])
        head = b"%b%d,%d%b]" % (tensor.head, array.shape[0], array.shape[1], tensor.tail)
        if binary:
            raws.append(array.tobytes())
            pieces.append(b'%b,"parameters":{"binary_data_size":%d}}' % (head, len(raws[-1])))
        else:
            pieces.append(b'%b,"data":%b}' % (head, to_json(array.reshape(math.prod(array.shape)))))
    return _reply(form, request_id, orjson.dumps(parameters)[1:-1], pieces, raws)


def _reply(form: Form, request_id: str, parameters: bytes, outputs: list[bytes], raws: list[bytes]) -> Reply:
    head = b'{%b%b%b,"outputs":[%b]}' % (
        b'"id":%b,' % orjson.dumps(request_id) if request_id else b"",
        form.head,
        b',"parameters":{%b}' % parameters if parameters else b"",
        b",".join(outputs),
    )
    if not raws:
        return 200, [JSON], head
    return 200, [_OCTETS, (HEAD_LENGTH, b"%d" % len(head))], b"".join((head, *raws))
