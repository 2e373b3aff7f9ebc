"""Whole sessions: open, describe, list, extend, fork, rewind, close."""

from typing import Any

from tests.recorded.client import Client
from tests.recorded.script import Family

_OPTIONS: tuple[Any, ...] = (
    *(None, {}, {"keep": 2}, {"idle_limit": 500}, {"idle_limit": 500.5, "keep": 0}, {"history": [[1], [2], [3]]}),
    *({"keep": 65}, {"keep": -1}, {"keep": 1.5}, {"keep": "1"}, {"keep": True}, {"keep": None}, {"keep": 64}),
    *({"idle_limit": 0}, {"idle_limit": -1}, {"idle_limit": 1e9}, {"idle_limit": "5"}, {"idle_limit": True}),
    *({"history": []}, {"history": [[1, 2]]}, {"history": 1}, {"history": [[3e38], [3e38]]}, {"history": [[None]]}),
    *({"other": 1}, [], 1, "x", {"state": 1}, {"state": "!"}, {"state": ""}, {"state": "AAAA"}),
    *({"state": "AAAA", "history": [[1]]}, b"{", b"null", b"  ", b'{"idle_limit":NaN}', b'{"idle_limit":1e999}'),
)


def play(client: Client) -> None:
    for fields in _OPTIONS:
        client.post("/v1/models/sum/sessions", fields)
    client.post("/v1/models/sum/sessions", {}, {"content-encoding": "gzip"})
    _keys(client)
    _described(client)
    _forks(client)
    _rewinds(client)
    _extended(client)
    _pages(client)
    client.get("/metrics")


def _keys(client: Client) -> None:
    """Open sessions by Idempotency-Key: again, with another body, with bad keys."""
    for key, fields in (
        *(("one", None), ("one", None), ("one", {}), ("two", {"keep": 1}), ("two", {"keep": 1}), ("two", {"keep": 2})),
        *(("", None), ("a b", None), ("k" * 128, None), ("k" * 129, None), ("\xe9", None)),
        *(("three", {"history": [[1], [1]]}), ("three", {"history": [[1], [1]]}), ("three", {"history": [[1]]})),
        *(("four", {"history": [[3e38], [3e38]]}), ("four", {"history": [[3e38], [3e38]]}), ("four", {"keep": "x"})),
    ):
        client.post("/v1/models/sum/sessions", fields, {"idempotency-key": key})
    session = client.post("/v1/models/sum/sessions", None, {"idempotency-key": "one"}).json()["session_id"]
    client.post("/v1/models/pair/sessions", None, {"idempotency-key": "one"})
    for _ in range(2):
        client.post(f"/v1/sessions/{session}/fork", None, {"idempotency-key": "one"})
    client.post(f"/v1/sessions/{session}/fork", {"keep": 1}, {"idempotency-key": "one"})
    client.request("DELETE", f"/v1/sessions/{session}")
    client.post("/v1/models/sum/sessions", None, {"idempotency-key": "one"})


def _described(client: Client) -> None:
    session = client.open("pair", keep=1)
    client.post(f"{session}/steps", {"inputs": [[1, 2]] * 3})
    client.get(session)
    client.request("HEAD", session)
    client.request("OPTIONS", session)
    client.request("DELETE", session)
    for method in ("GET", "DELETE", "PATCH"):
        client.request(method, session, b'{"idle_limit":1}' if method == "PATCH" else None)
    for verb in ("fork", "rewind"):
        client.post(f"{session}/{verb}", {"requests": 1} if verb == "rewind" else None)
    for name in ("none", "r0-abcd-AAAAAAAAAAAAAAAAAAAAAA", "r9-abcd-AAAAAAAAAAAAAAAAAAAAAA", "x" * 300):
        client.get(f"/v1/sessions/{name}")
        client.request("DELETE", f"/v1/sessions/{name}")
        client.post(f"/v1/sessions/{name}/fork")
        client.post(f"/v1/sessions/{name}/rewind", {"requests": 1})
        client.request("PATCH", f"/v1/sessions/{name}", {"idle_limit": 1})


def _forks(client: Client) -> None:
    """Fork a session: both go on from the same state, each for itself."""
    session = client.open(keep=3, idle_limit=60)
    client.post(f"{session}/steps", {"inputs": [[1], [2]], "step": 1})
    fork = "/v1/sessions/" + client.post(f"{session}/fork").json()["session_id"]
    client.post(f"{fork}/steps", {"inputs": [[1], [2]], "step": 1})
    client.post(f"{fork}/steps", {"inputs": [[5]], "step": 3})
    client.post(f"{session}/steps", {"inputs": [[7]], "step": 3})
    client.post(f"{fork}/rewind", {"requests": 1})
    client.post(f"{fork}/rewind", {"requests": 1})
    fields: Any
    for fields in (
        {"keep": 0},
        {"idle_limit": 70},
        {"keep": 99},
        {"idle_limit": 1e9},
        {"history": [[1]]},
        [],
        b"{",
        b" ",
    ):
        client.post(f"{session}/fork", fields)


def _rewinds(client: Client) -> None:
    """Take requests back."""
    session = client.open(keep=3)
    for value in range(1, 6):
        client.post(f"{session}/steps", {"inputs": [[value]] * value})
    rewind = f"{session}/rewind"
    fields: Any
    for fields in (
        *({}, None, {"requests": 0}, {"requests": -1}, {"requests": 1.0}, {"requests": "1"}, {"requests": 4}),
        *({"requests": 1, "epoch": 1}, {"requests": 1, "epoch": 0}, {"requests": 1, "epoch": 0}),
        *({"requests": 2, "epoch": 0}, {"requests": 2, "epoch": 1}, {"requests": 1}, {"requests": 1, "epoch": -1}),
        *({"requests": 1, "more": 1}, [], b"{", b"null"),
    ):
        client.post(rewind, fields)
    client.post(f"{session}/steps", {"inputs": [[9]]})
    client.post(rewind, {"requests": 1})
    client.get(session)


def _extended(client: Client) -> None:
    session = client.open()
    fields: Any
    for fields in (
        *({"idle_limit": 30}, {"idle_limit": 100.25}, {"idle_limit": 86400}, {"idle_limit": 86401}, {"idle_limit": 0}),
        *({}, None, {"idle_limit": None}, {"idle_limit": "1"}, {"idle_limit": 5, "keep": 1}, [], b"{", b"[1"),
    ):
        client.request("PATCH", session, fields)
    client.request("PATCH", session, {"idle_limit": 900})


def _pages(client: Client) -> None:
    """List sessions page by page, also behind one that has ended."""
    listed = client.get("/v1/sessions").json()["sessions"]
    page = client.get("/v1/sessions?limit=3").json()
    page = client.get(f"/v1/sessions?limit=4&after={page['next']}").json()
    client.request("DELETE", f"/v1/sessions/{page['next']}")
    client.get(f"/v1/sessions?limit=2&after={page['next']}")
    client.get(f"/v1/sessions?after={listed[-1]['session_id']}")
    for query in (
        *("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=", "limit=1&limit=2", "after=", "after=none", "x=1"),
        *("limit=1e2", "limit=%31", "after=r0-abcd-AAAAAAAAAAAAAAAAAAAAAA", "limit=1000", "", "&", "limit=\xb2"),
    ):
        client.get(f"/v1/sessions?{query}")
    client.request("HEAD", "/v1/sessions?limit=1")


FAMILY = Family(play, both_ways=True)
