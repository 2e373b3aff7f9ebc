"""A creation that is sent again gives the session that it gave before, even while the first is under way."""

import asyncio

import httpx
import pytest

from tests.service.conftest import FEATURES

PATH = "/v1/models/explosive/sessions"
HEADERS = {"Idempotency-Key": "once"}


@pytest.mark.parametrize("copies", [2, 4])
async def test_creations_that_race_wait_for_the_history(client: httpx.AsyncClient, copies: int) -> None:
    """All are told of one session, behind its history."""
    body = {"history": [[0.1] * FEATURES] * 3}
    answers = await asyncio.gather(*(client.post(PATH, json=body, headers=HEADERS) for _ in range(copies)))
    assert [(answer.status_code, answer.json()["step"]) for answer in answers] == [(201, 3)] * copies
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1


async def test_creations_that_race_to_a_bad_history_all_fail(client: httpx.AsyncClient) -> None:
    """Each is refused as if it were the only one; no session is left, and the key is free."""
    body = {"history": [[3e38] * FEATURES] * 3}
    answers = await asyncio.gather(*(client.post(PATH, json=body, headers=HEADERS) for _ in range(3)))
    assert [answer.json()["code"] for answer in answers] == ["state_not_finite"] * 3
    assert (await client.get("/v1/sessions")).json()["sessions"] == []
    assert (await client.post(PATH, json={}, headers=HEADERS)).status_code == 201


async def test_a_creation_again_succeeds_where_the_first_was_given_up(client: httpx.AsyncClient) -> None:
    """A client that went away has not used up its key."""
    body = {"history": [[0.1] * FEATURES] * 3}
    first = asyncio.ensure_future(client.post(PATH, json=body, headers=HEADERS))
    second = asyncio.ensure_future(client.post(PATH, json=body, headers=HEADERS))
    await asyncio.sleep(0)
    first.cancel()
    answer = await second
    assert (answer.status_code, answer.json()["step"]) == (201, 3)
    assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1
