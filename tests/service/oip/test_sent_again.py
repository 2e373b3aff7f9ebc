"""A request that is sent again takes effect once, and gets the stored answer."""

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
async def test_every_request_sent_twice_is_taken_once(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service, form: str
) -> None:
    """START, steps and END that are sent twice with the same id get the first answer again, marked as replayed."""
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


async def test_concurrent_copies_are_taken_once(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """Three copies of a request that are sent at once, START and END included, are taken as one."""
    inputs = random_inputs(4)
    for at in range(4):
        sent = body(inputs[at : at + 1], "s", start=at == 0, end=at == 3, id=f"r{at}")
        answers = await asyncio.gather(*(client.post(INFER, json=sent) for _ in range(3)))
        for answer in answers:
            assert last_step(answer) == at + 1
            np.testing.assert_allclose(outputs(answer)[0], offline(networks["lstm"], inputs[: at + 1])[-1:], atol=1e-5)
        assert sum("replayed" in answer.json()["parameters"] for answer in answers) == 2
    assert len(service.sessions) == 0


async def test_a_request_that_starts_and_ends_is_replayed(client: httpx.AsyncClient, service: Service) -> None:
    """A request that both starts and ends its sequence is replayed when it is sent again."""
    sent = body(random_inputs(3), 9, start=True, end=True, id="only")
    first, second = await client.post(INFER, json=sent), await client.post(INFER, json=sent)
    assert second.json()["parameters"] == {"step": 3, "replayed": True}
    np.testing.assert_array_equal(outputs(first), outputs(second))
    assert len(service.sessions) == 0
    other = await client.post(INFER, json=body(random_inputs(2), 9, start=True, end=True, id="only"))
    assert other.json()["parameters"] == {"step": 2}


async def test_other_content_or_no_id_is_another_request(client: httpx.AsyncClient) -> None:
    """A request with other numbers, other flags or no id is not a copy, and is taken."""
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


async def test_numbered_steps_are_taken_once(client: httpx.AsyncClient, service: Service) -> None:
    """Step numbers work as under /v1, and a START can only be step 1."""
    step = random_inputs(1)
    assert (await client.post(INFER, json=body(step, 1, start=True, step=2))).json()["code"] == "step_gap"
    assert len(service.sessions) == 0
    assert last_step(await client.post(INFER, json=body(step, 1, start=True, step=1))) == 1
    again = await client.post(INFER, json=body(step, 1, start=True, step=1, id="named"))
    assert last_step(again) == 1
    for number, inputs, id_, status, code in (
        (2, step, "a", 200, None),
        (2, step, "b", 200, None),
        (2, step + 1, "a", 409, "step_conflict"),
        (1, step, "a", 409, "step_too_old"),
        (9, step, "a", 409, "step_gap"),
    ):
        answer = await client.post(INFER, json=body(inputs, 1, step=number, id=id_))
        assert (answer.status_code, answer.json().get("code")) == (status, code)
        if status == 409:
            assert answer.json()["expected_step"] == 3
    stale = await client.post(INFER, json=body(step, 1, epoch=3))
    assert (stale.status_code, stale.json()["code"]) == (409, "epoch_conflict")


async def test_a_start_waits_for_queued_steps(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """A new START ends the old sequence after the steps that are already queued, which are answered."""
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
    """A START that is refused because the queue is full leaves the old sequence in use."""
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
    """A START that misses its deadline leaves the old sequence in use, and an ended one ended."""
    inputs = random_inputs(1)
    await client.post(INFER, json=body(random_inputs(3), 1, start=True))
    await client.post(INFER, json=body(inputs, 2, start=True, end=True, id="e"))
    batcher = service.repository.find("lstm").batcher
    batcher._scheduled = True  # no round runs until this test calls it
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
    assert (await behind).status_code == 400  # it was sent to the sequence that did not start
    assert last_step(await client.post(INFER, json=body(inputs, 1))) == 4
    gone = await client.post(INFER, json=body(inputs, 2))
    assert (gone.json()["code"], gone.json()["last_step"]) == ("session_closed", 1)
    again = await client.post(INFER, json=body(inputs, 2, start=True, end=True, id="e"))
    assert again.json()["parameters"] == {"step": 1, "replayed": True}
    assert len(service.sessions) == 1


async def test_the_last_of_several_starts_is_the_sequence(
    client: httpx.AsyncClient, service: Service, clock: FakeClock
) -> None:
    """Of several STARTs, of which any may miss the deadline, the last one that is taken is the sequence."""
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


async def test_a_cancelled_start_changes_nothing(client: httpx.AsyncClient, service: Service) -> None:
    """A START that is cancelled leaves the old sequence in use."""
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


async def test_request_ids_may_repeat_in_the_next_sequence(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """A new sequence never gets the answers of an earlier one of the same name and the same request ids."""
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


async def test_an_end_is_recognised_by_its_number(client: httpx.AsyncClient) -> None:
    """An END without an id is replayed if its step number and content are the same, and refused otherwise."""
    inputs = random_inputs(1)
    await client.post(INFER, json=body(inputs, 7, start=True))
    for _ in range(2):
        assert last_step(await client.post(INFER, json=body(inputs, 7, end=True, step=2))) == 2
    for sent in (body(inputs, 7, end=True, step=1), body(inputs + 1, 7, end=True, step=2), body(inputs, 7, end=True)):
        assert (await client.post(INFER, json=sent)).json()["code"] == "session_closed"


async def test_a_start_is_recognised_by_its_id_alone(client: httpx.AsyncClient) -> None:
    """A START with another id begins a new sequence, even with the same content and step number."""
    inputs = random_inputs(1)
    for id_ in ("a", "b"):
        for _ in range(2):
            assert last_step(await client.post(INFER, json=body(inputs, 7, start=True, step=1, id=id_))) == 1
        assert last_step(await client.post(INFER, json=body(inputs, 7))) == 2


async def test_a_fleet_row_waits_no_longer_than_its_timeout(
    client: httpx.AsyncClient, service: Service, clock: FakeClock
) -> None:
    """A fleet row that waits longer than the timeout is refused, and its sequence is not advanced."""
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


async def test_final_responses_are_kept_for_15_minutes(client: httpx.AsyncClient, clock: FakeClock) -> None:
    """Each request that ended a sequence gets its own answer again for 15 minutes."""
    sent = [body(random_inputs(1), n + 1, start=True, end=True, id="e") for n in range(3)]
    for request in sent:
        await client.post(INFER, json=request)
    parameters = [(await client.post(INFER, json=request)).json()["parameters"] for request in sent]
    assert all(each["replayed"] for each in parameters)
    clock.advance(1000)
    assert "replayed" not in (await client.post(INFER, json=sent[2])).json()["parameters"]


async def test_a_request_waits_no_longer_than_its_timeout(
    client: httpx.AsyncClient, service: Service, clock: FakeClock
) -> None:
    """A request that waits longer than its timeout, in µs, is refused, and its sequence is not advanced."""
    await client.post(INFER, json=body(random_inputs(1), 1, start=True))
    batcher = service.repository.find("lstm").batcher
    batcher._scheduled = True  # no round runs until this test calls it
    waiting = [asyncio.create_task(client.post(INFER, json=body(random_inputs(1), 1, timeout=t))) for t in (500, 0)]
    await asyncio.sleep(0.05)
    clock.advance(0.001)
    batcher._round()
    late, patient = await asyncio.gather(*waiting)
    assert (late.status_code, late.json()["code"], late.json()["retryable"]) == (503, "deadline_exceeded", True)
    assert last_step(patient) == 2
