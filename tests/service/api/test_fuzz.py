"""No request body is answered with a 5xx, and a refused step has not been taken."""

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.conftest import FEATURES, RunningServer

NUMBERS = st.one_of(
    st.floats(allow_nan=False), st.integers(), st.sampled_from([1e39, 3.5e38, -1e300, 2**63, 10**30, 1e-320])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=12,
)
ROWS = st.lists(st.lists(NUMBERS, min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=3)
BODIES = st.one_of(
    st.binary(max_size=64),
    JSON.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps({"inputs": value}).encode()),
    ROWS.map(lambda rows: json.dumps({"inputs": rows}).encode()),
    st.lists(ROWS, max_size=3).map(lambda rows: json.dumps({"inputs": rows, "sessions": ["a"] * len(rows)}).encode()),
)


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


@given(body=BODIES, raw=st.booleans(), path=st.sampled_from(["steps", "predict", "fleet", "sessions"]))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_is_answered_without_a_5xx(http: httpx.Client, body: bytes, raw: bool, path: str) -> None:
    """Any body is answered 200 or with a 4xx and a code; a step that is taken gives finite numbers."""
    session = http.post("/v1/models/lstm/sessions").json()["session_id"]
    url = f"/v1/sessions/{session}/steps" if path == "steps" else f"/v1/models/lstm/{path}"
    headers = {"content-type": "application/octet-stream"} if raw else {}
    answer = http.post(url, content=body, headers=headers)
    assert answer.status_code < 500, (body, answer.text)
    step = http.get(f"/v1/sessions/{session}").json()["step"]
    if answer.status_code >= 400:
        assert answer.json()["code"]
        assert step == 0
    elif path == "steps":
        outputs = np.frombuffer(answer.content, "<f4") if raw else np.array(answer.json()["outputs"])
        assert np.isfinite(outputs).all()
        assert step > 0
    http.delete(f"/v1/sessions/{session}")
