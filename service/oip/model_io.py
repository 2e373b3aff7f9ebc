"""A model's card as the protocol sees it: tensors by name, and the parts of an answer that are always the same."""

import math
from weakref import WeakKeyDictionary

import numpy as np
import orjson

from models.card import TensorSpec
from service.codec.binary import DATATYPE_OF
from service.oip.templates import Templates
from service.repository.served_model import ServedModel

Wanted = tuple[tuple[int, bool], ...]
"""Which outputs are asked for, in order, and whether each in binary."""


class Tensor:
    """One input or output; its shape on the wire is (rows, steps, *spec.shape).

    `head` and `tail` are its description in an answer up to the numbers of rows and steps, and behind them.
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


class Form:
    """What reading a model's requests and writing its answers needs."""

    def __init__(self, model: ServedModel) -> None:
        card = model.card
        self.name, self.version, self.codec = card.name, str(card.version), model.codec
        self.inputs = tuple(Tensor(spec) for spec in card.inputs)
        self.outputs = tuple(Tensor(spec) for spec in card.outputs)
        self.input_index = {tensor.name: index for index, tensor in enumerate(self.inputs)}
        self.output_index = {tensor.name: index for index, tensor in enumerate(self.outputs)}
        self.all_json: Wanted = tuple((index, False) for index in range(len(self.outputs)))
        self.all_binary: Wanted = tuple((index, True) for index in range(len(self.outputs)))
        self.carries = card.streams and bool(card.states)
        """Whether it carries a state, so that a request has to say whose."""
        self.head = b'"model_name":%b,"model_version":"%b"' % (orjson.dumps(self.name), self.version.encode())
        self.pack_step = self.codec.pack_short[1] if self.codec.pack_short and self.inputs[0].in_json else None
        """Packs one step of plain numbers, where that needs no other look at them."""
        self.templates = Templates(self.codec, self.pack_step)
        first = self.outputs[0]
        start = _literal(b'%b,"parameters":{"step":' % self.head)
        output = _literal(b'},"outputs":[%b1,1%b],' % (first.head, first.tail))
        self.step_json = b'%b%%d%b"data":[%%b]}]}' % (start, output)
        """The answer of one step with one output in JSON, from the model's name on: its index, its numbers."""
        size = b'"parameters":{"binary_data_size":%d}}]}' % first.step_bytes
        self.step_head = b"%b%%d%b%b" % (start, output, size)
        """The head of the answer of one step with one output in binary, likewise: its index."""


def _literal(text: bytes) -> bytes:
    """Return text as it has to stand in a format."""
    return text.replace(b"%", b"%%")


class Forms:
    """The forms of the models in service, made when they are first asked for."""

    def __init__(self) -> None:
        self._forms: WeakKeyDictionary[ServedModel, Form] = WeakKeyDictionary()

    def of(self, model: ServedModel) -> Form:
        form = self._forms.get(model)
        if form is None:
            form = self._forms[model] = Form(model)
        return form
