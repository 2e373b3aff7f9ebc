"""A request that is sent again takes effect once, and gets the answer that it got, or would have got, before."""

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest

from models.network import Network
from service.app import Service
from tests.fakes import FakeClock
from tests.service.conftest import offline, random_inputs
from tests.service.oip.conftest import INFER, binary, body, last_step, outputs


@pytest.mark.parametrize("form", ["json", "binary"])
async def test_every_request_sent_twice(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service, form: str
) -> None:
    """START, steps and END, each sent twice with the same id: the second answer is the first, marked as replayed."""
    inputs, got = random_inputs(6), []
    for at in range(6):
        more: dict[str, Any] = {"start": at == 0, "end": at == 5, "id": f"r{at}"}
        chunk = inputs[at : at + 1]
        sent = {"json": body(chunk, 42, **more)} if form == "json" else binary(chunk, 42, **more)
        first, second = await client.post(INFER, **sent), await client.post(INFER, **sent)
        np.testing.assert_array_equal(outputs(first), outputs(second))
        assert last_step(first) == last_step(second) == at + 1
        assert b'"replayed":true' in second.content
        assert b"replayed" not in first.content
        got.append(outputs(first)[0])
    np.testing.assert_allclose(np.concatenate(got), offline(networks["lstm"], inputs), atol=1e-5)
    assert len(service.sessions) == 0


async def test_copies_under_way_wait_for_the_first(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """Three copies at once of each request, START and END too, are one step."""
    inputs = random_inputs(4)
    for at in range(4):
        sent = body(inputs[at : at + 1], "s", start=at == 0, end=at == 3, id=f"r{at}")
        answers = await asyncio.gather(*(client.post(INFER, json=sent) for _ in range(3)))
        for answer in answers:
            assert last_step(answer) == at + 1
            np.testing.assert_allclose(outputs(answer)[0], offline(networks["lstm"], inputs[: at + 1])[-1:], atol=1e-5)
        assert sum("replayed" in answer.json()["parameters"] for answer in answers) == 2
    assert len(service.sessions) == 0


async def test_one_request_that_starts_and_ends(client: httpx.AsyncClient, service: Service) -> None:
    """A sequence of one request is remembered as well."""
    sent = body(random_inputs(3), 9, start=True, end=True, id="only")
    first, second = await client.post(INFER, json=sent), await client.post(INFER, json=sent)
    assert second.json()["parameters"] == {"step": 3, "replayed": True}
    np.testing.assert_array_equal(outputs(first), outputs(second))
    assert len(service.sessions) == 0
    other = await client.post(INFER, json=body(random_inputs(2), 9, start=True, end=True, id="only"))
    assert other.json()["parameters"] == {"step": 2}


async def test_other_content_or_no_id_is_another_request(client: httpx.AsyncClient) -> None:
    """The same id with other numbers or flags, and the same numbers without an id, are steps of their own."""
    step = random_inputs(1)
    await client.post(INFER, json=body(step, 1, start=True, id="x"))
    for sent, expected in (
        (body(step, 1, id="x"), 2),
        (body(step + 1, 1, id="x"), 3),
        (body(step + 1, 1), 4),
        (body(step + 1, 1), 5),
        (body(step + 1, 1, id="y"), 6),
        (body(step + 1, 1, id="y"), 6),
    ):
        assert last_step(await client.post(INFER, json=sent)) == expected


async def test_numbered_steps(client: httpx.AsyncClient, service: Service) -> None:
    """`step` has the meaning of /v1: taken once, conflicts told, gaps told; and a START may only be step 1."""
    step = random_inputs(1)
    assert (await client.post(INFER, json=body(step, 1, start=True, step=2))).json()["code"] == "step_gap"
    assert len(service.sessions) == 0
    assert last_step(await client.post(INFER, json=body(step, 1, start=True, step=1))) == 1
    again = await client.post(INFER, json=body(step, 1, start=True, step=1, id="named"))
    assert last_step(again) == 1
    for number, inputs, id_, status, told in (
        (2, step, "a", 200, None),
        (2, step, "b", 200, None),
        (2, step + 1, "a", 409, "step_conflict"),
        (1, step, "a", 409, "step_too_old"),
        (9, step, "a", 409, "step_gap"),
    ):
        answer = await client.post(INFER, json=body(inputs, 1, step=number, id=id_))
        assert (answer.status_code, answer.json().get("code")) == (status, told)
        if status == 409:
            assert answer.json()["expected_step"] == 3
    stale = await client.post(INFER, json=body(step, 1, epoch=3))
    assert (stale.status_code, stale.json()["code"]) == (409, "epoch_conflict")


async def test_a_start_waits_for_what_is_under_way(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """A new START ends the old sequence behind its steps under way, which are answered."""
    inputs = random_inputs(2)
    await client.post(INFER, json=body(inputs[:1], 1, start=True))
    old, new, after = await asyncio.gather(
        client.post(INFER, json=body(inputs[1:], 1)),
        client.post(INFER, json=body(inputs[:1], 1, start=True)),
        client.post(INFER, json=body(inputs[1:], 1)),
    )
    expected = offline(networks["lstm"], inputs)
    for answer, row, step in ((old, 1, 2), (new, 0, 1), (after, 1, 2)):
        assert last_step(answer) == step
        np.testing.assert_allclose(outputs(answer)[0, 0], expected[row], atol=1e-5)
    assert len(service.sessions) == 1


async def test_a_refused_start_changes_nothing(client: httpx.AsyncClient, service: Service) -> None:
    """Where the queue is full, the sequence that was there goes on under its id."""
    await client.post(INFER, json=body(random_inputs(3), 1, start=True))
    batcher = service.repository.find("lstm").batcher
    batcher.waiting += 10_000
    refused = await client.post(INFER, json=body(random_inputs(1), 1, start=True))
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    refused = await client.post(INFER, json=body(random_inputs(1), 2, start=True))
    batcher.waiting -= 10_000
    assert last_step(await client.post(INFER, json=body(random_inputs(1), 1))) == 4
    assert len(service.sessions) == 1


async def test_a_start_that_is_not_taken_changes_nothing(
    client: httpx.AsyncClient, service: Service, clock: FakeClock
) -> None:
    """A START that comes too late leaves the sequence, and what was ended stays ended."""
    inputs = random_inputs(1)
    await client.post(INFER, json=body(random_inputs(3), 1, start=True))
    await client.post(INFER, json=body(inputs, 2, start=True, end=True, id="e"))
    batcher = service.repository.find("lstm").batcher
    batcher._scheduled = True  # no turn is taken until this test says so
    late = [body(inputs, 1, start=True, timeout=5), body(inputs, 1, start=True, end=True, id="x", timeout=5)]
    starts = [asyncio.create_task(client.post(INFER, json=sent)) for sent in late]
    starts.append(asyncio.create_task(client.post(INFER, json=body(inputs, 2, start=True, timeout=5))))
    await asyncio.sleep(0.05)
    behind = asyncio.create_task(client.post(INFER, json=body(inputs, 1)))
    await asyncio.sleep(0.05)
    clock.advance(0.001)
    batcher._round()
    for start in starts:
        assert (await start).json()["code"] == "deadline_exceeded"
    assert (await behind).status_code == 400  # it was meant for the sequence that did not start
    assert last_step(await client.post(INFER, json=body(inputs, 1))) == 4
    gone = await client.post(INFER, json=body(inputs, 2))
    assert (gone.json()["code"], gone.json()["last_step"]) == ("session_closed", 1)
    again = await client.post(INFER, json=body(inputs, 2, start=True, end=True, id="e"))
    assert again.json()["parameters"] == {"step": 1, "replayed": True}
    assert len(service.sessions) == 1


async def test_of_several_starts_the_last_that_is_taken_counts(
    client: httpx.AsyncClient, service: Service, clock: FakeClock
) -> None:
    """Whichever of them come too late, one sequence is left, and it is that of the last good one."""
    inputs = random_inputs(1)
    for bad in ([], [0], [1], [2], [0, 1], [1, 2], [0, 2], [0, 1, 2]):
        await client.post(INFER, json=body(random_inputs(7), 1, start=True))
        batcher = service.repository.find("lstm").batcher
        batcher._scheduled = True
        starts = []
        for at in range(3):
            more = {"timeout": 5} if at in bad else {}
            sent = body(random_inputs(at + 1), 1, start=True, id=f"s{at}", **more)
            starts.append(asyncio.create_task(client.post(INFER, json=sent)))
            await asyncio.sleep(0.01)
        clock.advance(0.001)
        batcher._round()
        for at, start in enumerate(starts):
            assert (await start).status_code == (503 if at in bad else 200)
        good = [at + 1 for at in range(3) if at not in bad]
        assert last_step(await client.post(INFER, json=body(inputs, 1))) == (good[-1] if good else 7) + 1
        assert len(service.sessions) == 1
        assert service.repository.find("lstm").arena.slots.leased == 1


async def test_a_client_that_gives_up_on_a_start(client: httpx.AsyncClient, service: Service) -> None:
    """The sequence that it was to take the place of goes on."""
    await client.post(INFER, json=body(random_inputs(3), 1, start=True))
    batcher = service.repository.find("lstm").batcher
    batcher._scheduled = True
    start = asyncio.create_task(client.post(INFER, json=body(random_inputs(1), 1, start=True)))
    await asyncio.sleep(0.05)
    start.cancel()
    await asyncio.wait([start])
    batcher._round()
    assert last_step(await client.post(INFER, json=body(random_inputs(1), 1))) == 4
    assert len(service.sessions) == 1


async def test_ids_that_begin_anew_with_each_sequence(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """The answer that ended a sequence is not that of the next one of its name, though ids and END are equal."""
    end = random_inputs(1, 99)
    for numbered in (False, True):
        for run in range(3):
            inputs = np.concatenate([random_inputs(2, run), end])
            for at in range(3):
                more: dict[str, Any] = {"step": at + 1} if numbered else {}
                sent = body(inputs[at : at + 1], 7, start=at == 0, end=at == 2, id=f"{at}", **more)
                answer = await client.post(INFER, json=sent)
                assert "replayed" not in answer.json()["parameters"]
                np.testing.assert_allclose(outputs(answer)[0, 0], offline(networks["lstm"], inputs)[at], atol=1e-5)
            assert len(service.sessions) == 0
            assert (await client.post(INFER, json=sent)).json()["parameters"] == {"step": 3, "replayed": True}
    await client.post(INFER, json=body(end, 7, start=True, step=1, id="a"))
    other = await client.post(INFER, json=body(end, 7, end=True, step=2, id="another"))
    assert other.json()["parameters"] == {"step": 2}


async def test_an_end_is_known_by_its_number(client: httpx.AsyncClient) -> None:
    """Without an id, too; and not with another number or other content."""
    inputs = random_inputs(1)
    await client.post(INFER, json=body(inputs, 7, start=True))
    for _ in range(2):
        assert last_step(await client.post(INFER, json=body(inputs, 7, end=True, step=2))) == 2
    for sent in (body(inputs, 7, end=True, step=1), body(inputs + 1, 7, end=True, step=2), body(inputs, 7, end=True)):
        assert (await client.post(INFER, json=sent)).json()["code"] == "session_closed"


async def test_a_start_is_known_by_its_id_alone(client: httpx.AsyncClient) -> None:
    """A START of another id begins anew, though the last step was of the same content, and its number is 1."""
    inputs = random_inputs(1)
    for id_ in ("a", "b"):
        for _ in range(2):
            assert last_step(await client.post(INFER, json=body(inputs, 7, start=True, step=1, id=id_))) == 1
        assert last_step(await client.post(INFER, json=body(inputs, 7))) == 2


async def test_a_fleet_s_wait_can_be_bounded(client: httpx.AsyncClient, service: Service, clock: FakeClock) -> None:
    """A row that waits longer than the timeout is told so, and has not moved."""
    await client.post(INFER, json=body(random_inputs(1), "a", start=True))
    batcher = service.repository.find("lstm").batcher
    batcher._scheduled = True
    sent = body(random_inputs(1)[None], timeout=500)
    sent["inputs"].append({"name": "session_id", "shape": [1], "datatype": "BYTES", "data": ["a"]})
    waiting = asyncio.create_task(client.post(INFER, json=sent))
    await asyncio.sleep(0.05)
    clock.advance(0.001)
    batcher._round()
    (row,) = json.loads((await waiting).json()["parameters"]["errors"])
    assert row["code"] == "deadline_exceeded"
    assert last_step(await client.post(INFER, json=body(random_inputs(1), "a"))) == 2


async def test_final_responses_are_kept_for_a_while(client: httpx.AsyncClient, clock: FakeClock) -> None:
    """A request that ended a sequence is answered again, each by its own response, until 15 minutes later."""
    sent = [body(random_inputs(1), n + 1, start=True, end=True, id="e") for n in range(3)]
    for request in sent:
        await client.post(INFER, json=request)
    parameters = [(await client.post(INFER, json=request)).json()["parameters"] for request in sent]
    assert all(each["replayed"] for each in parameters)
    clock.advance(1000)
    assert "replayed" not in (await client.post(INFER, json=sent[2])).json()["parameters"]


async def test_the_wait_can_be_bounded(client: httpx.AsyncClient, service: Service, clock: FakeClock) -> None:
    """A request that waits longer than its timeout of µs is refused, and its sequence has not moved."""
    await client.post(INFER, json=body(random_inputs(1), 1, start=True))
    batcher = service.repository.find("lstm").batcher
    batcher._scheduled = True  # no turn is taken until this test says so
    waiting = [asyncio.create_task(client.post(INFER, json=body(random_inputs(1), 1, timeout=t))) for t in (500, 0)]
    await asyncio.sleep(0.05)
    clock.advance(0.001)
    batcher._round()
    late, patient = await asyncio.gather(*waiting)
    assert (late.status_code, late.json()["code"], late.json()["retryable"]) == (503, "deadline_exceeded", True)
    assert last_step(patient) == 2
