"""Requests that are malformed, refused or not supported get a 4xx or 501 with the reason, and change nothing."""

import gzip
import hashlib
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service.app import Service
from service.settings import Settings
from tests.service.api.test_fuzz import JSON, NUMBERS
from tests.service.conftest import random_inputs
from tests.service.oip.conftest import INFER, LENGTH, binary, body

TENSOR: dict[str, Any] = {"name": "x", "shape": [1, 1, 3], "datatype": "FP32", "data": [1, 2, 3]}


def tensor(**changes: Any) -> dict[str, Any]:
    """Return a request with a changed tensor; a field given as ... is left out."""
    made = {key: value for key, value in {**TENSOR, **changes}.items() if value is not ...}
    return {"inputs": [made], "parameters": {"sequence_id": 1}}


def parameters(**changes: Any) -> dict[str, Any]:
    return {"inputs": [TENSOR], "parameters": {"sequence_id": 1, **changes}}


REFUSED: list[tuple[Any, int, str]] = [
    ([], 400, "body: expected an object"),
    ({}, 400, "correlation ID"),
    ({"parameters": {"sequence_id": 1}}, 400, "inputs: expected an array of at least one tensor"),
    ({"inputs": [], "parameters": {"sequence_id": 1}}, 400, "inputs: expected"),
    ({"inputs": [1], "parameters": {"sequence_id": 1}}, 400, "inputs[0]: expected an object"),
    ({"inputs": [TENSOR, TENSOR], "parameters": {"sequence_id": 1}}, 400, "inputs[1].name: expected each input once"),
    ({**parameters(), "id": 7}, 400, "id: expected a string"),
    ({**parameters(), "parameters": []}, 400, "parameters: expected an object"),
    (tensor(name=...), 400, "inputs[0].name: expected a string"),
    (tensor(name="z"), 400, "unexpected inference input 'z' for model 'lstm'"),
    (tensor(datatype=...), 400, "inputs[0].datatype: expected a string"),
    (tensor(datatype="FP64"), 400, "inference input 'x' data-type is 'FP64', but model 'lstm' expects 'FP32'"),
    (tensor(shape=...), 400, "inputs[0].shape"),
    (tensor(shape=[1, 3]), 400, "unexpected shape for input 'x' for model 'lstm'. Expected [-1,-1,3], got [1,3]"),
    (tensor(shape=[1, 1, 4]), 400, "Expected [-1,-1,3], got [1,1,4]"),
    (tensor(shape=[1, 0, 3], data=[]), 400, "unexpected shape for input 'x'"),
    (tensor(shape=[0, 1, 3], data=[]), 400, "unexpected shape for input 'x'"),
    (tensor(shape=[1, -1, 3]), 400, "inputs[0].shape"),
    (tensor(shape=[1.0, 1, 3]), 400, "inputs[0].shape"),
    (tensor(shape=[True, 1, 3]), 400, "inputs[0].shape"),
    (tensor(shape=[1, 2000, 3]), 400, "at most 1024 steps"),
    (tensor(shape=[2, 1, 3], data=[0] * 6), 400, "one row"),
    (tensor(data=...), 400, "either data or binary_data_size, got neither"),
    (tensor(parameters={"binary_data_size": 12}), 400, "either data or binary_data_size, got both"),
    (tensor(parameters=[]), 400, "inputs[0].parameters: expected an object"),
    (tensor(parameters={"shared_memory_region": "r"}), 501, "shared memory is not supported"),
    (tensor(data=...) | {"outputs": 3}, 400, "outputs: expected an array"),
    (tensor(data=[1, 2]), 400, "3 elements for the shape [1, 1, 3], got 2"),
    (tensor(data=[1, 2, "3"]), 400, "inputs[0].data[2]: expected a finite float32, got a string"),
    (tensor(data=[1, 2, True]), 400, "inputs[0].data[2]"),
    (tensor(data=[1, 2, None]), 400, "inputs[0].data[2]"),
    (tensor(data=[1, 2, 1e39]), 400, "inputs[0].data[2]: expected a finite float32"),
    (tensor(data=[[1, 2, 3]]), 400, "nested as the shape"),
    (tensor(data=[[[1, 2], 3]]), 400, "nested as the shape"),
    (tensor(data={}), 400, "inputs[0].data: expected an array"),
    (parameters(sequence_id=-1), 400, "parameters.sequence_id"),
    (parameters(sequence_id=2**64), 400, "parameters.sequence_id"),
    (parameters(sequence_id=1.5), 400, "parameters.sequence_id"),
    (parameters(sequence_id=True), 400, "parameters.sequence_id"),
    (parameters(sequence_id="a" * 129), 400, "parameters.sequence_id"),
    (parameters(sequence_id="\x1f7"), 400, "parameters.sequence_id"),
    (parameters(sequence_start=1), 400, "parameters.sequence_start: expected true or false"),
    (parameters(sequence_end="true"), 400, "parameters.sequence_end"),
    (parameters(binary_data_output=0), 400, "parameters.binary_data_output"),
    (parameters(priority=3), 400, "parameter 'priority' is not supported"),
    (parameters(priority="high"), 400, "parameters.priority"),
    (parameters(timeout=-1), 400, "parameters.timeout"),
    (parameters(timeout=1.5), 400, "parameters.timeout"),
    (parameters(timeout=True), 400, "parameters.timeout"),
    (parameters(step=0), 400, "parameters.step"),
    (parameters(step=True), 400, "parameters.step"),
    (parameters(epoch=-1), 400, "parameters.epoch"),
    (parameters(triton_final=1), 400, "parameter 'triton_final' is reserved"),
    (parameters(mine=[1]), 400, "parameters.mine: expected a string, a number or a boolean"),
    ({**parameters(), "outputs": [1]}, 400, "outputs[0]: expected an object"),
    ({**parameters(), "outputs": [{"name": "z"}]}, 400, "unexpected inference output 'z' for model 'lstm'"),
    ({**parameters(), "outputs": [{"name": "y"}] * 2}, 400, "each output once"),
    ({**parameters(), "outputs": [{"name": "y", "parameters": 1}]}, 400, "outputs[0].parameters"),
    ({**parameters(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, 400, "binary_data"),
    ({**parameters(), "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, 501, "classification"),
    (
        {**parameters(), "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
        501,
        "shared memory is not supported",
    ),
]


async def started(client: httpx.AsyncClient) -> None:
    answer = await client.post(INFER, json=body(random_inputs(1), 1, start=True))
    assert answer.status_code == 200


def is_untouched(service: Service) -> bool:
    return [session.step for session in service.sessions] == [1]


@pytest.mark.parametrize(("request_body", "status", "text"), REFUSED)
async def test_malformed_requests_are_refused(
    client: httpx.AsyncClient, service: Service, request_body: Any, status: int, text: str
) -> None:
    """Each malformed request is refused with its own sentence and a code."""
    await started(client)
    answer = await client.post(INFER, json=request_body)
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"]
    assert answer.json()["code"]
    assert answer.json()["retryable"] is False
    assert is_untouched(service)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"binary_data_size": 16}, "unexpected size for input 'x', expecting 4 additional bytes for model 'lstm'"),
        ({"binary_data_size": 8}, "input byte size mismatch for input 'x' for model 'lstm'. Expected 12, got 8"),
        ({"binary_data_size": -1}, "binary_data_size"),
        ({"binary_data_size": "12"}, "binary_data_size"),
        ({"binary_data_size": 12, "more": b"1234"}, "unexpected additional input data for model 'lstm'"),
        ({"binary_data_size": 12, "nan": True}, "finite numbers"),
    ],
)
async def test_malformed_binary_requests_are_refused(
    client: httpx.AsyncClient, service: Service, change: dict[str, Any], text: str
) -> None:
    """The bytes after the head must have the size that the head states, and be finite."""
    await started(client)
    raw = np.array([1, 2, np.nan if "nan" in change else 3], "<f4").tobytes() + change.get("more", b"")
    sizes = {"binary_data_size": change["binary_data_size"]}
    head = json.dumps(tensor(data=..., parameters=sizes)).encode()
    answer = await client.post(INFER, content=head + raw, headers={LENGTH: str(len(head))})
    assert answer.status_code == 400
    assert text in answer.json()["error"]
    assert is_untouched(service)


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "1e3", "٣", "9" * 30])
async def test_a_wrong_head_length_is_refused(client: httpx.AsyncClient, length: str) -> None:
    """A head length that is no number within the body is refused."""
    sent = binary(random_inputs(1), 1, start=True)
    answer = await client.post(INFER, content=sent["content"], headers=[(LENGTH.encode(), length.encode())])
    assert answer.status_code == 400


PACKED = gzip.compress(b"{}", mtime=0)
"""Without the time, so that each worker finds tests of the same names."""


@pytest.mark.parametrize(
    ("encoding", "content", "status"),
    [
        ("br", b"x", 501),
        ("gzip", b"no such stream", 400),
        ("gzip", PACKED[:-3], 400),
        ("gzip", PACKED * 2, 400),
        ("deflate", PACKED, 400),
        ("gzip", PACKED, 400),
        ("identity", b"{}", 400),
    ],
)
async def test_wrong_encodings_are_refused(
    client: httpx.AsyncClient, encoding: str, content: bytes, status: int
) -> None:
    """A body that is not what its encoding says is refused with 400, and an unknown encoding with 501."""
    answer = await client.post(INFER, content=content, headers={"content-encoding": encoding})
    assert answer.status_code == status
    assert (answer.headers.get("accept-encoding") == "gzip, deflate") == (status == 501)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_decompression_bomb_is_refused(client: httpx.AsyncClient, encoding: str) -> None:
    """A body that decompresses to more than the limit is refused with 413."""
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(16)) + packer.flush()
    assert len(bomb) < 1 << 20
    answer = await client.post(INFER, content=bomb, headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"names": ["a"]}, "unexpected shape for input 'session_id'"),
        ({"names": ["a", ""]}, "ids or names"),
        ({"names": ["a", 1]}, "ids or names"),
        ({"names": ["a", "\x1f1"]}, "U+001F"),
        ({"names": [1, 2], "datatype": "FP32"}, "expects 'BYTES'"),
        ({"names": [0, 1], "datatype": "UINT64"}, "ids from 1"),
        ({"names": [-1, 1], "datatype": "UINT64"}, "whole numbers"),
        ({"names": [True, 1], "datatype": "UINT64"}, "whole numbers"),
        ({"parameters": {"sequence_id": 1}}, "give one of them"),
        ({"parameters": {"sequence_start": True}}, "needs a sequence_id"),
        ({"parameters": {"step": 1}}, "needs a sequence_id"),
    ],
)
async def test_malformed_fleets_are_refused(
    client: httpx.AsyncClient, service: Service, asked: dict[str, Any], text: str
) -> None:
    """A malformed fleet request is refused as a whole."""
    await started(client)
    request = body(np.zeros((2, 1, 3)))
    names = asked.get("names", ["a", "b"])
    request["inputs"].append(
        {"name": "session_id", "shape": [len(names)], "datatype": asked.get("datatype", "BYTES"), "data": names}
    )
    request["parameters"] = {"create": True, **asked.get("parameters", {})}
    answer = await client.post(INFER, json=request)
    assert answer.status_code == 400, answer.text
    assert text in answer.json()["error"]
    assert is_untouched(service)


async def test_keys_are_needed_and_sequences_belong_to_their_tenant(artifacts: Any, tmp_path: Any) -> None:
    """Authentication errors have the protocol's fields, and a sequence belongs to its tenant."""
    file = tmp_path / "keys"
    file.write_text("".join(f"{who}:{hashlib.sha256(who.encode()).hexdigest()}\n" for who in ("one", "two")))
    service = Service(Settings(artifacts=artifacts, max_sessions=50, api_key_file=file))
    service.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:
        answer = await client.get("/v2")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert (await client.get("/v2/health/ready")).status_code == 200
        request = body(random_inputs(1), 1, start=True)
        assert (await client.post(INFER, json=request)).status_code == 401
        assert (await client.post(INFER, json=request, headers={"x-api-key": "one"})).status_code == 200
        foreign = await client.post(INFER, json=body(random_inputs(1), 1), headers={"x-api-key": "two"})
        assert foreign.json()["code"] == "session_not_found"
    service.close()


TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.sampled_from(["x", "session_id", "step", "y"]), JSON),
        "shape": st.one_of(st.sampled_from([[1, 1, 3], [2, 1, 3], [1, 2, 3], [1], [2]]), JSON),
        "datatype": st.one_of(st.sampled_from(["FP32", "BYTES", "INT64", "UINT64"]), JSON),
        "data": st.one_of(st.lists(NUMBERS, min_size=3, max_size=3), JSON),
        "parameters": st.one_of(st.fixed_dictionaries({"binary_data_size": NUMBERS}), JSON),
    },
)
PARAMETERS = st.dictionaries(
    st.sampled_from(
        ["sequence_id", "sequence_start", "sequence_end", "step", "epoch", "timeout", "priority", "create"]
    ),
    st.one_of(st.booleans(), st.integers(0, 3), JSON),
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(TENSORS, max_size=3), JSON)},
    optional={"parameters": st.one_of(PARAMETERS, JSON), "id": st.one_of(st.text(max_size=3), JSON), "outputs": JSON},
)


@given(request=st.one_of(REQUESTS, JSON), tail=st.binary(max_size=24), cut=st.integers(-2, 2), raw=st.booleans())
@examples(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_any_body_is_answered(
    client: httpx.AsyncClient, service: Service, request: Any, tail: bytes, cut: int, raw: bool
) -> None:
    """Any body is answered 200, 501 or with a 4xx, and a refused one changes no sequence."""
    if len(service.sessions) > 40:
        for session in list(service.sessions):
            service.sessions.close(session)
    before = {session.id: session.step for session in service.sessions}
    head = json.dumps(request).encode()
    headers = {LENGTH: str(max(len(head) + cut, 0))} if raw else {}
    answer = await client.post(INFER, content=head + tail if raw else head, headers=headers)
    assert answer.status_code in (200, 400, 404, 409, 501), (request, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]
        assert answer.json()["code"]
        assert {session.id: session.step for session in service.sessions} == before
