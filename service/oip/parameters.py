"""The parameters of an infer request: sequence, step number, flags, timeout and requested outputs."""

import math
from typing import Any

from service.codec.json_values import kind, whole_number
from service.errors import InvalidInput
from service.oip.errors import InvalidRequest, NeedsBinary, Refused, UnexpectedOutput, Unsupported
from service.oip.model_io import ModelIO
from service.oip.templates import Requested
from service.repository.served_model import ServedModel
from service.sessions.names import NAME_LENGTH, NUMBER_PREFIX, name_of_number
from service.sessions.sequences import SequenceRequest

_MAX_ID = 2**64 - 1
_SCALARS = {str, int, float, bool}


class Parameters:
    """The `id` and `parameters` of a request.

    `name` is the sequence's name among the tenant's sessions, "" where the request names none; `shown` is the name as
    the client wrote it, for messages (see `sessions.names` for names that are numbers). `number` is the index of the
    first step, 0 for none. `patience` is the longest time in seconds that the request may wait. `booleans` counts the
    parameters that are true or false.
    """

    __slots__ = (
        "binary",
        "booleans",
        "create",
        "end",
        "epoch",
        "id",
        "name",
        "number",
        "patience",
        "shown",
        "start",
    )

    def __init__(self, fields: dict[str, Any]) -> None:
        """Read the fields of a request.

        Raises:
            InvalidInput: A value has the wrong type or is out of range.
            Refused: A parameter is not supported, or reserved.
        """
        self.id = fields.get("id", "")
        if type(self.id) is not str:
            raise InvalidInput("id", "a string", kind(self.id))
        self.name = self.shown = ""
        self.start = self.end = self.binary = self.create = False
        self.number, self.booleans = 0, 0
        self.epoch: int | None = None
        self.patience = math.inf
        parameters = fields.get("parameters")
        if parameters is None:
            return
        if type(parameters) is not dict:
            raise InvalidInput("parameters", "an object", kind(parameters))
        for key, value in parameters.items():
            if value is True or value is False:
                self.booleans += 1
                if key == "sequence_start":
                    self.start = value
                elif key == "sequence_end":
                    self.end = value
                elif key == "binary_data_output":
                    self.binary = value
                elif key == "create":
                    self.create = value
                else:
                    self._read_other(key, value)
            elif key == "sequence_id":
                self._read_sequence(value)
            elif key == "step":
                self.number = whole_number(value, "parameters.step", 1)
            else:
                self._read_other(key, value)

    def sequence_request(self, model: ServedModel, version: str | None) -> SequenceRequest:
        """Return the request for a sequence, without its inputs; `version` is the one in the path, None for none."""
        return SequenceRequest(
            model,
            version,
            self.name,
            self.shown,
            self.start,
            self.end,
            self.number,
            self.epoch,
            request_name(self.id, start=self.start, end=self.end),
            self.patience,
        )

    def _read_sequence(self, value: Any) -> None:
        if type(value) is int and 0 <= value <= _MAX_ID:
            self.shown = str(value)
            self.name = name_of_number(value) if value else ""
        elif type(value) is str and len(value) <= NAME_LENGTH and not value.startswith(NUMBER_PREFIX):
            self.name = self.shown = value
        else:
            got = "another string" if type(value) is str else "another number" if type(value) is int else kind(value)
            raise InvalidInput(
                "parameters.sequence_id", f"a whole number up to 2^64 - 1, or up to {NAME_LENGTH} characters", got
            )

    def _read_other(self, key: str, value: Any) -> None:
        if key in ("sequence_start", "sequence_end", "binary_data_output", "create"):
            raise InvalidInput(f"parameters.{key}", "true or false", kind(value))
        if key == "sequence_id":
            self._read_sequence(value)
        elif key == "step":
            whole_number(value, "parameters.step", 1)
        elif key == "epoch":
            self.epoch = whole_number(value, "parameters.epoch", 0)
        elif key == "timeout":
            self.patience = whole_number(value, "parameters.timeout", 0) / 1e6 or math.inf
        elif key == "priority":
            if whole_number(value, "parameters.priority", 0):
                raise Refused(key, "is not supported: requests are taken in the order in which they come")
        elif key.startswith("triton_"):
            raise Refused(key, "is reserved: no parameter may begin with triton_")
        elif type(value) not in _SCALARS:
            raise InvalidInput(f"parameters.{key[:64]}", "a string, a number or a boolean", kind(value))


def request_name(request_id: str, *, start: bool = False, end: bool = False) -> str:
    """Return the name by which a request that is sent again is recognised: its flags and id, "" where it has no id."""
    return f"{start:d}{end:d}{request_id}" if request_id else ""


def requested_outputs(io: ModelIO, fields: dict[str, Any], parameters: Parameters) -> Requested:
    """Return the outputs that a request asks for, and whether each is to be binary; all outputs by default.

    Raises:
        InvalidInput, InvalidRequest: The field `outputs` is not valid.
        UnexpectedOutput: The model has no such output.
        NeedsBinary: An output cannot be sent as JSON.
        Unsupported: An output is asked for by an extension that is not supported.
    """
    asked = fields.get("outputs")
    if not asked and (asked is None or type(asked) is list):
        requested = io.all_binary if parameters.binary else io.all_json
    elif type(asked) is not list:
        raise InvalidInput("outputs", "an array of requested outputs", kind(asked))
    else:
        requested = tuple(_requested(io, output, f"outputs[{index}]", parameters) for index, output in enumerate(asked))
        if len({index for index, _ in requested}) < len(requested):
            raise InvalidRequest(f"expected each output once in 'outputs' for model '{io.name}'")
    for index, binary in requested:
        if not binary and not io.outputs[index].in_json:
            raise NeedsBinary(io.outputs[index].datatype, "output", io.outputs[index].name)
    return requested


def _requested(io: ModelIO, output: Any, where: str, asked: Parameters) -> tuple[int, bool]:
    if type(output) is not dict or type(output.get("name")) is not str:
        raise InvalidInput(where, "an object with a name", kind(output))
    index = io.output_index.get(output["name"])
    if index is None:
        raise UnexpectedOutput(output["name"], io.name)
    parameters = output.get("parameters", {})
    if type(parameters) is not dict:
        raise InvalidInput(f"{where}.parameters", "an object", kind(parameters))
    binary = asked.binary
    for key, value in parameters.items():
        if key == "binary_data":
            if type(value) is not bool:
                raise InvalidInput(f"{where}.parameters.binary_data", "true or false", kind(value))
            binary = value
        elif key == "classification":
            if whole_number(value, f"{where}.parameters.classification", 0):
                raise Unsupported("the classification extension")
        elif key.startswith("shared_memory_"):
            raise Unsupported("shared memory")
        elif type(value) not in _SCALARS:
            raise InvalidInput(f"{where}.parameters.{key[:64]}", "a string, a number or a boolean", kind(value))
    return index, binary
