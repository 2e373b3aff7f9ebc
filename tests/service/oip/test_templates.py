"""Reading a body by a template gives what reading it as a whole gives."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.network import Network
from service.app import Service
from service.errors import ServiceError
from service.oip.infer import _split
from service.oip.model_io import ModelIO, ModelIOCache
from service.oip.parameters import Parameters, requested_outputs
from service.oip.templates import Template, Templates
from service.oip.tensors import Limits, read_inputs, read_step

LIMITS = Limits(1024, 65_536)

blanks = st.sampled_from(["", "", "", " ", "\n"])
numbers = st.sampled_from(
    ["1", "2.5", "-3", "1e2", "-0.0", "7E-1", "12345678901234567890", "1e39", "true", '"4"', "[5]"]
)
arrays = st.lists(numbers, min_size=2, max_size=4).map(lambda items: f"[{', '.join(items)}]")
steps = st.lists(st.sampled_from(["1", "2.5", "-3e-1"]), min_size=3, max_size=3).map(
    lambda items: f"[{','.join(items)}]"
)
texts = st.sampled_from(["a", "b", '"data":[1]', "]", "\\", "é", "", "id", '"id":']).map(json.dumps)


@st.composite
def keys(draw: st.DrawFn, name: str) -> str:
    """Draw the key of an object, sometimes with an escape of the same meaning."""
    return f'"{name[0]}\\u{ord(name[1]):04x}{name[2:]}"' if draw(st.integers(0, 15)) == 0 else f'"{name}"'


@st.composite
def objects(draw: st.DrawFn, fields: list[tuple[str, str]]) -> str:
    """Draw an object with its fields in any sequence, and with blanks."""
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    written = [f"{draw(keys(name))}:{draw(blanks)}{value}" for name, value in fields]
    return f"{{{draw(blanks)}{(',' + draw(blanks)).join(written)}}}"


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Draw a request for one step, with other fields that a client may send."""
    tensor = [("name", '"x"'), ("shape", "[1,1,3]"), ("datatype", '"FP32"'), ("data", draw(steps))]
    parameters = [("sequence_id", draw(st.sampled_from(["42", '"a"'])))]
    if draw(st.booleans()):
        parameters.append((draw(st.sampled_from(["mine", "data", "id", "timeout", "epoch"])), "7"))
    fields = [("parameters", draw(objects(parameters))), ("inputs", f"[{draw(blanks)}{draw(objects(tensor))}]")]
    if draw(st.booleans()):
        fields.insert(0, ("id", draw(texts)))
    if draw(st.integers(0, 3)) == 0:
        odd = draw(arrays | texts | objects([("data", draw(arrays))]))
        fields.insert(draw(st.integers(0, len(fields))), (draw(st.sampled_from(["more", "data", "id", "xy"])), odd))
    return draw(objects(fields))


@st.composite
def others(draw: st.DrawFn, body: str) -> str:
    """Draw a body that differs from this one in an array, in the id or in a byte."""
    kind = draw(st.sampled_from(["array", "id", "byte", "same"]))
    if kind == "array":
        starts = [at for at, mark in enumerate(body) if mark == "["]
        start = draw(st.sampled_from(starts))
        return body[:start] + draw(arrays) + body[body.index("]", start) + 1 :]
    if kind == "id":
        rest = body.partition(",")[2] if body.startswith('{"id"') else body[1:]
        return f'{{"id":{draw(texts)},{rest}'
    if kind == "byte":
        at = draw(st.integers(0, len(body) - 1))
        return body[:at] + draw(st.sampled_from([" ", "]", "[", ",", "1", '"', "\\", "}", "null"])) + body[at + 1 :]
    return body


@pytest.fixture
def io(service: Service, networks: dict[str, Network]) -> ModelIO:
    return ModelIOCache().of(service.repository.find("lstm"))


def read(io: ModelIO, body: bytes, length: bytes | None, templates: Templates | None = None, tenant: str = "t") -> Any:
    """Return all that a request says, read as a whole; None if it is refused."""
    try:
        fields, head, tail = _split(body, length)
        asked = Parameters(fields)
        template = Template(asked.name, asked.shown, asked.epoch, asked.patience, requested_outputs(io, fields, asked))
        raw = read_step(io, fields, head, tail, asked)
        if raw is None:
            inputs = read_inputs(io, fields, tail, LIMITS)
            if (inputs.rows, inputs.steps) != (1, 1):
                return None
            raw = inputs.raw[0]
        elif templates is not None and not (asked.start or asked.end or asked.number):
            templates.learn(tenant, template, asked.id, fields, head, tail)
    except ServiceError:
        return None
    return template, raw, asked.id, asked.start, asked.end, asked.number


def check(io: ModelIO, templates: Templates, body: bytes, length: bytes | None) -> bool:
    """Compare the two ways to read a body; return whether a template matched it."""
    found = templates.read("t", body, length)
    if found is not None:
        assert (*found, False, False, 0) == read(io, body, length), body
    return found is not None


@pytest.mark.parametrize("settings", ["fast path", pytest.param("routes", marks=pytest.mark.slow)], indirect=True)
def test_a_template_reads_what_a_whole_reading_does(io: ModelIO) -> None:
    """A template that was learned from any body reads every other body as it is read without it."""
    known = 0

    @settings(max_examples=1500, deadline=None)
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        nonlocal known
        body = data.draw(bodies())
        templates = Templates(io.codec, io.pack_step)
        read(io, body.encode(), None, templates)
        for _ in range(3):
            other = data.draw(others(body)).encode()
            length = data.draw(st.sampled_from([None, None, b"%d" % len(other), b"%d" % (len(other) + 9)]))
            known += check(io, templates, other, length)

    compare()
    assert known > 200


@pytest.mark.parametrize(
    ("learned", "sent"),
    [
        ('{"a": [7, 8, 9], "inputs": [T], "parameters": {"sequence_id": 1}}', None),
        ('{"xy":[7,8,9],"inputs":[T],"parameters":{"sequence_id":1}}', None),
        ('{"data":[7,8,9],"inputs":[T],"parameters":{"sequence_id":1}}', None),
        ('{"id":"a","inputs":[T],"parameters":{"sequence_id":1},"\\u0069d":"a"}', '{"id":"b"'),
        ('{"id":"a","inputs":[T],"parameters":{"sequence_id":1},"id":"a"}', '{"id":"b"'),
    ],
)
@pytest.mark.parametrize("name", ['"data"', '"d\\u0061ta"'])
@pytest.mark.parametrize("blank", ["", " "])
def test_misleading_bodies_are_read_correctly(
    io: ModelIO, learned: str, sent: str | None, name: str, blank: str
) -> None:
    """Bodies with several arrays, escaped keys or repeated ids are read correctly."""
    tensor = f'{{"name":"x","shape":[1,1,3],"datatype":"FP32",{name}:{blank}[1,2,3]}}'
    body = learned.replace("T", tensor).encode()
    templates = Templates(io.codec, io.pack_step)
    assert read(io, body, None, templates) is not None
    other = body if sent is None else sent.encode() + body[len(sent) :]
    check(io, templates, other, None)
    check(io, templates, other.replace(b"[7,8,9]", b"[1,1,1]"), None)


def test_both_ways_to_write_a_colon_are_recognised(io: ModelIO) -> None:
    """Bodies with and without a space after the colon are both recognised."""
    for separators in ((",", ":"), (", ", ": ")):
        templates = Templates(io.codec, io.pack_step)
        tensor = {"name": "x", "shape": [1, 1, 3], "datatype": "FP32", "data": [1.5, 2, 3]}
        body = json.dumps({"inputs": [tensor], "parameters": {"sequence_id": 1}}, separators=separators).encode()
        assert not check(io, templates, body, None)
        read(io, body, None, templates)
        assert check(io, templates, body.replace(b"1.5", b"-6"), None)
        assert not check(io, templates, body, b"%d" % (len(body) + 1))


def test_templates_of_one_tenant_leave_room_for_those_of_others(io: ModelIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant that sends requests for ever other sequences does not have another tenant's templates dropped."""
    monkeypatch.setattr("service.oip.templates._MAX_TEMPLATES", 4)
    templates = Templates(io.codec, io.pack_step)
    tensor = {"name": "x", "shape": [1, 1, 3], "datatype": "FP32", "data": [1.5, 2, 3]}

    def body(sequence: int) -> bytes:
        fields = {"inputs": [tensor], "parameters": {"sequence_id": sequence}}
        return json.dumps(fields, separators=(",", ":")).encode()

    read(io, body(1), None, templates)
    for sequence in range(2, 20):
        read(io, body(sequence), None, templates, "other")
    assert templates.read("t", body(1), None) is not None
    assert templates.read("other", body(1), None) is None
    assert templates.read("other", body(19), None) is not None
