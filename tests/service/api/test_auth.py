"""API keys map to tenants, and no tenant can see another's sessions."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.api.auth import Authenticator
from service.app import Service
from service.errors import RefusedToStart, Unauthorized
from service.settings import Settings, is_loopback
from tests.service.conftest import RunningServer

KEYS = {"alpha": "key-of-alpha", "beta": "key-of-beta"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    lines = [f"{tenant}:{hashlib.sha256(key.encode()).hexdigest()}" for tenant, key in KEYS.items()]
    path.write_text("# tenant:sha256\n\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def server_with_keys(artifacts: Path, key_file: Path) -> Iterator[RunningServer]:
    running = RunningServer(artifacts, "--api-key-file", str(key_file), "--host", "0.0.0.0")
    yield running
    running.stop()


def bearer(tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[tenant]}"}


def test_both_headers_name_the_tenant(key_file: Path) -> None:
    """A key is accepted as a bearer token and in X-API-Key, and gives the same tenant."""
    authenticator = Authenticator.from_file(key_file)
    assert authenticator.tenant({b"authorization": b"Bearer key-of-alpha"}) == "alpha"
    assert authenticator.tenant({b"authorization": b"bearer key-of-beta"}) == "beta"
    assert authenticator.tenant({b"x-api-key": b"key-of-beta"}) == "beta"


@pytest.mark.parametrize(
    "headers",
    [{}, {b"authorization": b"Bearer wrong"}, {b"authorization": b"Basic key-of-alpha"}, {b"x-api-key": b""}],
)
def test_missing_and_wrong_keys_are_unauthorized(key_file: Path, headers: dict[bytes, bytes]) -> None:
    """A missing key, a wrong key and another authentication scheme are all refused as unauthorized."""
    with pytest.raises(Unauthorized):
        Authenticator.from_file(key_file).tenant(headers)


STEP = {"inputs": [[1, 2, 3]]}
SESSION_OPERATIONS: tuple[tuple[str, str, object], ...] = (
    ("GET", "", None),
    ("PATCH", "", {"idle_limit": 5}),
    ("DELETE", "", None),
    ("POST", "/steps", STEP),
    ("POST", "/peek", STEP),
    ("POST", "/fork", {}),
    ("POST", "/rewind", {"requests": 1}),
    ("GET", "/state", None),
    ("PUT", "/state", {}),
)
"""The method, the path after the session, and the body of every operation on a session."""


@pytest.mark.parametrize("text", ["", "alpha", "alpha:123", "a b:" + "0" * 64, "alpha:" + "g" * 64])
def test_a_wrong_key_file_is_refused(tmp_path: Path, text: str) -> None:
    """A key file with a malformed line, or without any key, prevents the start."""
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(RefusedToStart):
        Authenticator.from_file(path)


def test_a_public_address_without_keys_is_refused(artifacts: Path) -> None:
    """Without keys, an address that other machines can reach is refused in one line that names the flag to give."""
    command = [sys.executable, "-m", "service", "--artifacts", str(artifacts), "--host", "0.0.0.0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    assert "--api-key-file" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert is_loopback("::1")
    assert not is_loopback("example.org")


def test_every_operation_needs_a_key(server_with_keys: RunningServer) -> None:
    """Every operation but the health probes is refused with 401 without a key."""
    with httpx.Client(base_url=server_with_keys.url) as client:
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/v1/models/lstm"),
            ("POST", "/v1/models/lstm/predict"),
            ("POST", "/v1/models/lstm/sessions"),
            *((method, f"/v1/sessions/x{suffix}") for method, suffix, _ in SESSION_OPERATIONS),
            ("GET", "/v1/sessions"),
            ("POST", "/v1/models/lstm/fleet"),
            ("GET", "/metrics"),
        ):
            answer = client.request(method, path, content=b"{}" if method == "POST" else None)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200


def test_another_tenants_session_is_unknown(server_with_keys: RunningServer) -> None:
    """Another tenant's session, live or ended, is answered byte for byte like an id that never existed."""
    with httpx.Client(base_url=server_with_keys.url) as client:
        session = client.post("/v1/models/lstm/sessions", headers=bearer("alpha")).json()["session_id"]
        for ended in (False, True):
            for method, suffix, body in SESSION_OPERATIONS:
                foreign = client.request(method, f"/v1/sessions/{session}{suffix}", json=body, headers=bearer("beta"))
                unknown = client.request(method, f"/v1/sessions/nobody{suffix}", json=body, headers=bearer("beta"))
                assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content), ended
                assert foreign.status_code == 404
            mine = client.post(f"/v1/sessions/{session}/steps", json=STEP, headers=bearer("alpha"))
            assert mine.status_code == (410 if ended else 200)
            if not ended:
                assert client.delete(f"/v1/sessions/{session}", headers=bearer("alpha")).status_code == 204


def test_streams_need_a_key(server_with_keys: RunningServer) -> None:
    """A WebSocket without a key is refused in the handshake with 401 and the code `unauthorized`."""
    url = server_with_keys.url.replace("http", "ws") + "/v1/models/lstm/stream"
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body or b"")["code"] == "unauthorized"
    with connect(url, additional_headers=bearer("beta")) as stream:
        stream.send('{"inputs":[[1,2,3]]}')
        assert json.loads(stream.recv())["step"] == 1


def test_a_stream_whose_key_is_removed_takes_no_more_steps(artifacts: Path, tmp_path: Path) -> None:
    """An open WebSocket is authenticated again once the keys have been read again."""
    file = tmp_path / "keys"
    lines = {name: f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in KEYS.items()}
    file.write_text("".join(lines.values()))
    running = RunningServer(artifacts, "--api-key-file", str(file))
    url, step = running.url.replace("http", "ws") + "/v1/models/lstm/stream", '{"inputs":[[1,2,3]]}'
    with (
        connect(url, additional_headers=bearer("alpha")) as kept,
        connect(url, additional_headers=bearer("beta")) as removed,
    ):
        for stream in (kept, removed):
            stream.send(step)
            assert json.loads(stream.recv())["step"] == 1
        file.write_text(lines["alpha"])
        running.process.send_signal(signal.SIGHUP)
        with httpx.Client(base_url=running.url, headers=bearer("beta")) as client:
            while client.get("/v1/models").status_code != 401:
                time.sleep(0.01)
        removed.send(step)
        assert json.loads(removed.recv())["code"] == "unauthorized"
        kept.send(step)
        assert json.loads(kept.recv())["step"] == 2
    running.stop()


def test_another_tenants_stream_cannot_be_taken_over(server_with_keys: RunningServer) -> None:
    """Another tenant's session cannot be streamed, listed or put in a fleet step, and its own stream goes on."""
    url = server_with_keys.url.replace("http", "ws") + "/v1"
    with connect(f"{url}/models/lstm/stream", additional_headers=bearer("alpha")) as stream:
        assert stream.response is not None
        session = stream.response.headers["x-session-id"]
        path = f"{url}/sessions/{session}/stream?takeover=1"
        with pytest.raises(InvalidStatus) as refused, connect(path, additional_headers=bearer("beta")):
            pass
        assert refused.value.response.status_code == 404
        with httpx.Client(base_url=server_with_keys.url, headers=bearer("beta")) as client:
            fleet = {"sessions": [session], "inputs": [[[1, 2, 3]]], "create": True}
            row = client.post("/v1/models/lstm/fleet", json=fleet).json()
            assert (row["created"], row["errors"][0]["code"]) == ([], "session_not_found")
            listed = client.get("/v1/sessions", params={"limit": 1000}).json()["sessions"]
            assert session not in [each["session_id"] for each in listed]
        stream.send('{"inputs":[[1,2,3]],"step":1}')
        assert json.loads(stream.recv())["step"] == 1


async def test_keys_are_read_again_without_a_restart(artifacts: Path, tmp_path: Path) -> None:
    """A key that was removed is refused, a new one is accepted; a file that is not valid changes nothing."""

    def line(tenant: str, key: str) -> str:
        return f"{tenant}:{hashlib.sha256(key.encode()).hexdigest()}\n"

    file = tmp_path / "keys"
    file.write_text(line("a", "old"))
    service = Service(Settings(artifacts=artifacts, api_key_file=file, host="127.0.0.1"))
    service.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:

        async def statuses() -> list[int]:
            answers = [await client.get("/v1/models", headers={"x-api-key": key}) for key in ("old", "new")]
            return [answer.status_code for answer in answers]

        assert await statuses() == [200, 401]
        file.write_text("nonsense")
        service.reload_keys()
        assert await statuses() == [200, 401]
        file.write_text(line("b", "new"))
        os.utime(file, ns=(1, 1))
        service.reload_keys(only_changed=True)
        assert await statuses() == [401, 200]
    service.close()
