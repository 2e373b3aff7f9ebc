"""What is stored for repeated requests is bounded, and a repeated creation gives the same session."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from service.app import Service
from service.engine.chunk import Chunk
from service.errors import IdempotencyConflict, InvalidInput
from service.sessions import replay
from service.sessions.replay import Creations, FinalResponses
from service.sessions.session import Session
from tests.fakes import FakeClock
from tests.service.conftest import FEATURES

PATH = "/v1/models/explosive/sessions"
HEADERS = {"Idempotency-Key": "once"}


def test_a_key_opens_one_session_for_an_hour(clock: FakeClock) -> None:
    """A creation key gives its session for an hour, unless it is forgotten, and only for the same content."""
    creations = Creations(clock)
    for _ in range(2):
        assert creations.recall("t", "lstm", b"once", b"{}") is None
        creations.remember("t", "lstm", b"once", b"{}", "id")
        assert creations.recall("t", "lstm", b"once", b"{}") == "id"
        assert creations.recall("other", "lstm", b"once", b"{}") is None
        assert creations.recall("t", "gru", b"once", b"{}") is None
        with pytest.raises(IdempotencyConflict):
            creations.recall("t", "lstm", b"once", b'{"keep":1}')
        creations.forget("t", "lstm", b"once")
    creations.remember("t", "lstm", b"once", b"{}", "id")
    clock.advance(3599)
    assert creations.recall("t", "lstm", b"once", b"{}") == "id"
    clock.advance(1)
    assert creations.recall("t", "lstm", b"once", b"{}") is None


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 129, b"\xc3\xa9"])
def test_a_key_is_short_and_visible(clock: FakeClock, key: bytes) -> None:
    """A creation key that is empty, too long or not of visible ASCII characters is refused."""
    with pytest.raises(InvalidInput):
        Creations(clock).recall("t", "lstm", key, b"{}")


@pytest.fixture
def answered(service: Service) -> Callable[[str], Chunk]:
    """Return a function that makes an answered chunk, named like its session."""
    model = service.repository.find("lstm")

    def answer(name: str) -> Chunk:
        session = service.sessions.create("t", model, 900, name)
        chunk = Chunk(session, (bytes(12),), 1, name=name)
        chunk.outputs, chunk.last_step = [(model.codec.stored_outputs(bytes(8), 1), 0, 1)], 7
        return chunk

    return answer


def replayed(responses: FinalResponses, chunk: Chunk, **other: str) -> bool:
    """Tell whether the request of a chunk is recognised when it is sent again."""
    session, request = chunk.owner, (other.get("request", chunk.name), 0, chunk.digest())
    assert isinstance(session, Session)
    final = responses.find("t", "lstm", chunk.name, other.get("last", session.id))
    assert final is None or (final.outputs, final.last_step) == (bytes(8), 7)
    return final is not None and final.request == request


def test_a_final_response_is_replayed_to_its_own_request(clock: FakeClock, answered: Callable[[str], Chunk]) -> None:
    """A final response is replayed only to its own request, and only until another sequence has its name."""
    responses, chunk = FinalResponses(clock), answered("a")
    assert not replayed(responses, chunk)
    remember(responses, chunk)
    assert replayed(responses, chunk)
    assert not replayed(responses, chunk, request="b")
    assert replayed(responses, chunk)
    assert not replayed(responses, chunk, last="another session")
    assert not replayed(responses, chunk)


def test_final_responses_are_bounded(
    clock: FakeClock, answered: Callable[[str], Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Final responses are bounded in number, in bytes and in age, and the oldest are dropped first."""
    monkeypatch.setattr(replay, "MOST_RESPONSES", 2)
    chunks = [answered(name) for name in "abc"]
    responses = FinalResponses(clock)
    for chunk in chunks:
        remember(responses, chunk)
    assert [replayed(responses, chunk) for chunk in chunks] == [False, True, True]
    clock.advance(900)
    assert [replayed(responses, chunk) for chunk in chunks] == [False, False, False]
    monkeypatch.setattr(replay, "MOST_RESPONSE_BYTES", 15)
    responses = FinalResponses(clock)
    for chunk in chunks:
        remember(responses, chunk)
    assert [replayed(responses, chunk) for chunk in chunks] == [False, False, True]


def remember(responses: FinalResponses, chunk: Chunk) -> None:
    session = chunk.owner
    assert isinstance(session, Session)
    responses.remember(session, chunk.name, (chunk.name, 0, chunk.digest()), chunk)


@pytest.mark.parametrize("copies", [2, 4])
async def test_concurrent_creations_wait_for_the_history(client: httpx.AsyncClient, copies: int) -> None:
    """Creations that are sent at once with one key get one session, after its history has been taken."""
    body = {"history": [[0.1] * FEATURES] * 3}
    answers = await asyncio.gather(*(client.post(PATH, json=body, headers=HEADERS) for _ in range(copies)))
    assert [(answer.status_code, answer.json()["step"]) for answer in answers] == [(201, 3)] * copies
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1


async def test_concurrent_creations_with_a_bad_history_all_fail(client: httpx.AsyncClient) -> None:
    """Creations that are sent at once with a bad history all fail, open no session, and leave the key unused."""
    body = {"history": [[3e38] * FEATURES] * 3}
    answers = await asyncio.gather(*(client.post(PATH, json=body, headers=HEADERS) for _ in range(3)))
    assert [answer.json()["code"] for answer in answers] == ["state_not_finite"] * 3
    assert (await client.get("/v1/sessions")).json()["sessions"] == []
    assert (await client.post(PATH, json={}, headers=HEADERS)).status_code == 201


async def test_a_creation_succeeds_after_a_cancelled_copy(client: httpx.AsyncClient) -> None:
    """A creation whose first copy is cancelled still succeeds when it is sent again."""
    body = {"history": [[0.1] * FEATURES] * 3}
    first = asyncio.ensure_future(client.post(PATH, json=body, headers=HEADERS))
    second = asyncio.ensure_future(client.post(PATH, json=body, headers=HEADERS))
    await asyncio.sleep(0)
    first.cancel()
    answer = await second
    assert (answer.status_code, answer.json()["step"]) == (201, 3)
    assert len((await client.get("/v1/sessions")).json()["sessions"]) == 1
