"""The inputs and outputs of a model as the protocol describes them, and the constant parts of its responses."""

import math
from weakref import WeakKeyDictionary

import numpy as np
import orjson

from models.card import TensorSpec
from service.codec.binary import DATATYPE_OF
from service.oip.templates import Requested, Templates
from service.repository.served_model import ServedModel


class TensorIO:
    """One input or output; its shape in requests and responses is (rows, steps, *spec.shape).

    `width` is the number of elements of a step, `step_bytes` their size in bytes. `in_json` is whether its elements may
    be sent as JSON. `head` and `tail` are its description in a response before and after the numbers of rows and steps.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self.name, self.spec = spec.name, spec
        self.datatype = DATATYPE_OF[spec.dtype]
        self.width = math.prod(spec.shape)
        self.step_bytes = self.width * np.dtype(spec.dtype).itemsize
        self.step_shape = [1, 1, *spec.shape]
        self.in_json = self.datatype != "FP16"
        self.head = b'{"name":%b,"datatype":"%b","shape":[' % (orjson.dumps(spec.name), self.datatype.encode())
        self.tail = b"".join(b",%d" % dim for dim in spec.shape)


class ModelIO:
    """What is needed to read the requests for a model and to write its responses; only `templates` changes."""

    def __init__(self, model: ServedModel) -> None:
        card = model.card
        self.name, self.version, self.codec = card.name, str(card.version), model.codec
        self.inputs = tuple(TensorIO(spec) for spec in card.inputs)
        self.outputs = tuple(TensorIO(spec) for spec in card.outputs)
        self.input_index = {tensor.name: index for index, tensor in enumerate(self.inputs)}
        self.output_index = {tensor.name: index for index, tensor in enumerate(self.outputs)}
        self.all_json: Requested = tuple((index, False) for index in range(len(self.outputs)))
        self.all_binary: Requested = tuple((index, True) for index in range(len(self.outputs)))
        self.carries_state = card.streams and bool(card.states)
        """Whether it is a streaming model with states, so that a request has to name a sequence."""
        self.head = b'"model_name":%b,"model_version":"%b"' % (orjson.dumps(self.name), self.version.encode())
        self.pack_step = self.codec.pack_short[1] if self.codec.pack_short and self.inputs[0].in_json else None
        """Packs the numbers of one step; None where packing does not check all of them."""
        self.templates = Templates(self.codec, self.pack_step)
        first = self.outputs[0]
        start = _literal(b'%b,"parameters":{"step":' % self.head)
        output = _literal(b'},"outputs":[%b1,1%b],' % (first.head, first.tail))
        self.step_json = b'%b%%d%b"data":[%%b]}]}' % (start, output)
        """Format of a response with one step and one JSON output, from the model's name on: step index, numbers."""
        size = b'"parameters":{"binary_data_size":%d}}]}' % first.step_bytes
        self.step_head = b"%b%%d%b%b" % (start, output, size)
        """Format of the head of a response with one step and one binary output, from the model's name on: index."""


def _literal(text: bytes) -> bytes:
    """Return text with % escaped, to be used in a format."""
    return text.replace(b"%", b"%%")


class ModelIOCache:
    """The `ModelIO` of each version of a model, made at its first use and dropped together with the version."""

    def __init__(self) -> None:
        self._cache: WeakKeyDictionary[ServedModel, ModelIO] = WeakKeyDictionary()

    def of(self, model: ServedModel) -> ModelIO:
        """Return the `ModelIO` of one version of a model."""
        io = self._cache.get(model)
        if io is None:
            io = self._cache[model] = ModelIO(model)
        return io
