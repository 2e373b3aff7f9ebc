"""An infer request, in every format, advances the sequence that it names by the steps that it brings."""

import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from models.network import Network
from service.app import Service
from service.oip.templates import Templates
from tests.fakes import FakeClock
from tests.service.conftest import FEATURES, offline, random_inputs
from tests.service.oip.conftest import INFER, LENGTH, binary, body, last_step, outputs


@pytest.mark.parametrize("form", ["json", "binary"])
@pytest.mark.parametrize("sequence", [42, 2**64 - 1, "camera/7"])
@pytest.mark.parametrize("named", [False, True])
async def test_a_sequence_equals_the_offline_run(
    client: httpx.AsyncClient, networks: dict[str, Network], form: str, sequence: int | str, named: bool
) -> None:
    """The steps and chunks of a sequence give the outputs of the offline run."""
    inputs, got, at = random_inputs(13), [], 0
    for length in (1, 1, 1, 4, 1, 1, 2, 1, 1):
        more: dict[str, Any] = {"start": at == 0, "end": at + length == 13}
        if named:
            more["id"] = f"r{at}"
        chunk = inputs[at : at + length]
        sent = {"json": body(chunk, sequence, **more)} if form == "json" else binary(chunk, sequence, **more)
        answer = await client.post(INFER, **sent)
        at += length
        got.append(outputs(answer)[0])
        assert last_step(answer) == at
    np.testing.assert_allclose(np.concatenate(got), offline(networks["lstm"], inputs), atol=1e-5)
    gone = await client.post(INFER, json=body(inputs[:1], sequence))
    assert (gone.status_code, gone.json()["code"]) == (400, "session_closed")


async def test_an_answer_has_the_protocol_s_fields(client: httpx.AsyncClient) -> None:
    """An answer has the id, the model's name and version, the step, and outputs with flat data."""
    answer = (await client.post(INFER, json=body(random_inputs(3), 1, start=True, id='a "b" é'))).json()
    assert list(answer) == ["id", "model_name", "model_version", "parameters", "outputs"]
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ('a "b" é', "lstm", "1")
    assert answer["parameters"] == {"step": 3}
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"], len(output["data"])) == ("y", "FP32", [1, 3, 2], 6)


async def test_numbers_and_strings_are_different_ids(client: httpx.AsyncClient) -> None:
    """The ids 42 and "42" name two sequences, and 0 and "" name none."""
    step = random_inputs(1)
    await client.post(INFER, json=body(step, 42, start=True))
    refused = (await client.post(INFER, json=body(step, "42"))).json()
    assert refused["error"] == (
        "inference request for sequence 42 to model 'lstm' must specify the START flag on the first request of the "
        "sequence"
    )
    for none in (0, ""):
        refused = (await client.post(INFER, json=body(step, none, start=True))).json()
        assert refused["error"] == (
            "inference request to model 'lstm' must specify a non-zero or non-empty correlation ID"
        )


async def test_sequence_names_are_those_of_fleet_steps(client: httpx.AsyncClient, service: Service) -> None:
    """A sequence with a text as its id is the session of that name in a fleet step, and is found by its session id."""
    await client.post(INFER, json=body(random_inputs(1), "pump", start=True))
    fleet = {"sessions": ["pump"], "inputs": [[[0, 0, 0]]]}
    assert (await client.post("/v1/models/lstm/fleet", json=fleet)).json()["steps"] == [2]
    (session,) = service.sessions
    assert last_step(await client.post(INFER, json=body(random_inputs(1), session.id))) == 3
    taken = {"sessions": ["\x1f42"], "inputs": [[[0, 0, 0]]], "create": True}
    assert (await client.post("/v1/models/lstm/fleet", json=taken)).status_code == 422


async def test_start_replaces_the_old_sequence(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """START with an id in use replaces the old sequence, also when the table is full."""
    inputs = random_inputs(4)
    for n in range(50):
        await client.post(INFER, json=body(inputs, n + 1, start=True))
    again = await client.post(INFER, json=body(inputs, 7, start=True))
    np.testing.assert_allclose(outputs(again)[0], offline(networks["lstm"], inputs), atol=1e-5)
    assert len(service.sessions) == 50
    full = await client.post(INFER, json=body(inputs, 51, start=True))
    assert (full.status_code, full.json()["code"], full.json()["retryable"]) == (503, "table_full", True)
    assert "retry-after" in full.headers


async def test_an_expired_sequence_is_reported(client: httpx.AsyncClient, service: Service, clock: FakeClock) -> None:
    """An expired sequence is reported as such with its last step, and differs from one that never existed."""
    await client.post(INFER, json=body(random_inputs(3), "s", start=True))
    clock.advance(901)
    service.sessions.sweep()
    gone = (await client.post(INFER, json=body(random_inputs(1), "s"))).json()
    assert (gone["code"], gone["last_step"], gone["retryable"]) == ("session_expired", 3, False)
    never = (await client.post(INFER, json=body(random_inputs(1), "t"))).json()
    assert never["code"] == "session_not_found"


async def test_a_failed_start_opens_no_sequence(client: httpx.AsyncClient, service: Service) -> None:
    """A START that fails opens no sequence, and a later step that fails leaves the sequence as it is."""
    huge = np.full((1, FEATURES), 3e38)
    url = "/v2/models/explosive/infer"
    answer = await client.post(url, json=body(huge, 5, start=True))
    assert (answer.status_code, answer.json()["code"]) == (400, "state_not_finite")
    assert len(service.sessions) == 0
    await client.post(url, json=body(np.zeros((1, FEATURES)), 5, start=True))
    assert (await client.post(url, json=body(huge, 5, end=True))).status_code == 400
    assert last_step(await client.post(url, json=body(np.zeros((1, FEATURES)), 5))) == 2


async def test_outputs_are_sent_as_requested(client: httpx.AsyncClient) -> None:
    """Each output can be requested in binary or in JSON, independently of the inputs."""
    step = random_inputs(1)
    first = outputs(await client.post(INFER, json=body(step, 1, start=True)))
    for parameters, wanted, is_binary in (
        ({}, [{"name": "y", "parameters": {"binary_data": True}}], True),
        ({"binary_data_output": True}, [{"name": "y", "parameters": {"binary_data": False}}], False),
        ({"binary_data_output": True}, [{"name": "y"}], True),
        ({"binary_data_output": True}, [], True),
        ({}, [{"name": "y", "parameters": {"classification": 0}}], False),
    ):
        asked = {**body(step, 1, start=True, **parameters), "outputs": wanted}
        answer = await client.post(INFER, json=asked)
        assert (LENGTH in answer.headers) == is_binary
        assert (answer.headers["content-type"] == "application/octet-stream") == is_binary
        np.testing.assert_array_equal(outputs(answer), first)


async def test_nested_data_equals_flat_data(client: httpx.AsyncClient) -> None:
    """`data` may be nested like the shape, or flat."""
    step = random_inputs(2)
    nested = body(step, 1, start=True)
    nested["inputs"][0]["data"] = step[None].tolist()
    flat = outputs(await client.post(INFER, json=body(step, 1, start=True)))
    np.testing.assert_array_equal(outputs(await client.post(INFER, json=nested)), flat)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_bodies_and_answers_may_be_compressed(
    client: httpx.AsyncClient, encoding: str, networks: dict[str, Network]
) -> None:
    """A compressed body is accepted, and a long answer is compressed where the client accepts that."""
    inputs = random_inputs(300)
    sent = binary(inputs, 3, start=True)
    packed = gzip.compress(sent["content"]) if encoding == "gzip" else zlib.compress(sent["content"])
    headers = {**sent["headers"], "content-encoding": encoding, "accept-encoding": encoding}
    answer = await client.post(INFER, content=packed, headers=headers)
    assert answer.headers["content-encoding"] == encoding
    np.testing.assert_allclose(outputs(answer)[0], offline(networks["lstm"], inputs), atol=1e-5)
    short = await client.post(INFER, json=body(inputs[:1], 3), headers={"accept-encoding": encoding})
    assert "content-encoding" not in short.headers


async def test_a_model_without_state_takes_whole_sequences(client: httpx.AsyncClient, service: Service) -> None:
    """A model without state takes whole sequences as rows, or one as a raw body, and refuses a sequence id."""
    url, inputs = "/v2/models/both-ways/infer", np.stack([random_inputs(5, seed) for seed in range(3)])
    answer = outputs(await client.post(url, json=body(inputs)))
    v1 = (await client.post("/v1/models/both-ways/predict", json={"inputs": inputs.tolist()})).json()["outputs"]
    np.testing.assert_allclose(answer, np.array(v1), atol=1e-6)
    np.testing.assert_array_equal(outputs(await client.post(url, **binary(inputs))), answer)
    raw = await client.post(url, content=inputs[0].astype("<f4").tobytes(), headers={LENGTH: "0"})
    np.testing.assert_allclose(outputs(raw)[0], answer[0], atol=1e-6)
    refused = await client.post(url, json=body(inputs[:1], 1, start=True))
    assert (refused.status_code, refused.json()["code"]) == (409, "not_streamable")
    raw = await client.post(INFER, content=inputs[0].astype("<f4").tobytes(), headers={LENGTH: "0"})
    assert raw.json()["code"] == "sequence_id_missing"
    assert len(service.sessions) == 0


async def test_token_ids_have_no_feature_axis(client: httpx.AsyncClient, networks: dict[str, Network]) -> None:
    """INT64 token ids have no feature axis, in JSON and in binary, and must lie in the vocabulary."""
    ids = np.array([3, 1, 4, 1, 5])
    tensor: dict[str, Any] = {"name": "x", "shape": [1, 5], "datatype": "INT64", "data": ids.tolist()}
    asked: dict[str, Any] = {"parameters": {"sequence_id": 1, "sequence_start": True}, "inputs": [tensor]}
    url = "/v2/models/tokens/infer"
    np.testing.assert_allclose(
        outputs(await client.post(url, json=asked))[0], offline(networks["tokens"], ids), atol=1e-5
    )
    tensor["data"] = [3, 1, 4, 1, 20]
    assert (await client.post(url, json=asked)).json()["code"] == "invalid_input"
    del tensor["data"]
    tensor["parameters"] = {"binary_data_size": 40}
    head = json.dumps(asked).encode()
    sent = await client.post(url, content=head + ids.astype("<i8").tobytes(), headers={LENGTH: str(len(head))})
    np.testing.assert_allclose(outputs(sent)[0], offline(networks["tokens"], ids), atol=1e-5)


def fleet(names: list[Any], inputs: np.ndarray, datatype: str = "BYTES", **parameters: Any) -> dict[str, Any]:
    made = body(inputs, **parameters)
    made["inputs"].append({"name": "session_id", "shape": [len(names)], "datatype": datatype, "data": names})
    return made


async def test_a_fleet_advances_many_sequences(client: httpx.AsyncClient, networks: dict[str, Network]) -> None:
    """Each row advances the sequence that session_id names for it; a row that fails is null, and is listed."""
    inputs = np.stack([random_inputs(3, seed) for seed in range(4)])
    names = ["a", "b", "c", "d"]
    opened = await client.post(INFER, json=fleet(names, inputs[:, :1], create=True))
    assert json.loads(opened.json()["parameters"]["created"]) == [0, 1, 2, 3]
    names[2] = "nobody"
    second = await client.post(INFER, json=fleet(names, inputs[:, 1:]))
    notes = second.json()["parameters"]
    assert (notes["failed"], json.loads(notes["steps"])) == (1, [3, 3, None, 3])
    assert json.loads(notes["errors"]) == [{"row": 2, "code": "session_not_found", "message": "no session of this id"}]
    got = np.array(
        [np.nan if value is None else value for value in second.json()["outputs"][0]["data"]], np.float32
    ).reshape(4, 2, 2)
    assert np.isnan(got[2]).all()
    for row in (0, 1, 3):
        np.testing.assert_allclose(got[row], offline(networks["lstm"], inputs[row])[1:], atol=1e-5)


async def test_fleet_rows_by_numbers_and_in_binary(client: httpx.AsyncClient) -> None:
    """Rows may be named by UINT64 numbers or by binary BYTES, and INT64 step numbers make them safe to repeat."""
    for sequence in (7, 9):
        await client.post(INFER, json=body(random_inputs(1), sequence, start=True))
    inputs = np.stack([random_inputs(1, seed) for seed in (1, 2)])
    asked = fleet([7, 9], inputs, "UINT64")
    asked["inputs"].append({"name": "step", "shape": [2], "datatype": "INT64", "data": [2, 0]})
    first = await client.post(INFER, json=asked)
    assert json.loads(first.json()["parameters"]["steps"]) == [2, 2]
    again = (await client.post(INFER, json=asked)).json()
    assert json.loads(again["parameters"]["steps"]) == [2, 3]
    assert json.loads(again["parameters"]["replayed"]) == [0]
    raws = [inputs.astype("<f4").tobytes(), b"".join(len(n).to_bytes(4, "little") + n for n in (b"x", b"yy"))]
    asked = fleet([], inputs, create=True)
    asked["inputs"][1]["shape"] = [2, 1]
    for tensor, raw in zip(asked["inputs"], raws, strict=True):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(asked).encode()
    answer = await client.post(INFER, content=head + b"".join(raws), headers={LENGTH: str(len(head))})
    assert json.loads(answer.json()["parameters"]["created"]) == [0, 1]


async def test_a_version_can_be_named(client: httpx.AsyncClient) -> None:
    """The path may name the version in service; any other one is not found."""
    url = "/v2/models/lstm/versions/{}/infer"
    assert (await client.post(url.format(1), json=body(random_inputs(1), 1, start=True))).status_code == 200
    for version, status in (("2", 404), ("9" * 5000, 404), ("x", 404), ("-1", 404)):
        answer = await client.post(url.format(version), json=body(random_inputs(1), 1))
        assert answer.status_code == status, version
    unknown = await client.post("/v2/models/nobody/infer", json=body(random_inputs(1), 1))
    assert (unknown.status_code, unknown.json()["error"]) == (404, "Request for unknown model: 'nobody' is not found")


async def test_a_known_request_with_invalid_numbers_is_refused(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that matches a template is read by it, and one with invalid numbers is refused all the same."""
    known: list[bool] = []
    read = Templates.read

    def watched(self: Templates, tenant: str, content: bytes, length: bytes | None) -> Any:
        found = read(self, tenant, content, length)
        known.append(found is not None)
        return found

    monkeypatch.setattr(Templates, "read", watched)
    good = json.dumps(body([[1.0, 2, 3]], 1), separators=(",", ":"))
    await client.post(INFER, json=body([[1.0, 2, 3]], 1, start=True))
    for text, fresh in (("[1.0,2.0,3.0]", False), ("[1,2e0,-3]", True), ("[ 1 , 2 , 3 ]", True)):
        answer = await client.post(INFER, content=good.replace("[1.0,2.0,3.0]", text))
        assert (answer.status_code, known[-1]) == (200, fresh)
    for text in (
        "[1,2]",
        "[1,2,true]",
        "[1,2,null]",
        "[1,2,1e39]",
        "[1,2,[3]]",
        '[1,2,"3"]',
        "[1,2,3,4]",
        "[1,2,",
        "{}",
    ):
        answer = await client.post(INFER, content=good.replace("[1.0,2.0,3.0]", text))
        assert (answer.status_code, known[-1]) == (400, False), text
    (session,) = service.sessions
    assert session.step == 4
    for name in ("a", "b", 'c\\"d', "e"):
        named = good.replace("{", f'{{"id":"{name}",', 1)
        answer = await client.post(INFER, content=named)
        assert answer.json()["id"] == name.replace("\\", "")
        assert known[-1] == ("\\" not in name)
    twice = good.replace("{", '{"id":"x","id":"y",', 1)
    assert (await client.post(INFER, content=twice)).json()["id"] == "y"
    other = good.replace("{", '{"data":[9],', 1)
    for _ in range(2):
        assert (await client.post(INFER, content=other)).status_code == 200
        assert not known[-1]


async def test_templates_are_bounded(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest templates are dropped when there are too many, and requests are still answered."""
    monkeypatch.setattr("service.oip.templates._MAX_TEMPLATES", 3)
    for sequence in range(1, 9):
        for start in (True, False, False):
            assert (await client.post(INFER, json=body(random_inputs(1), sequence, start=start))).status_code == 200
