"""A service without keys answers only this machine: not the pages of others, by whatever name they reach it."""

from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.api.origin import LocalOrigins
from service.errors import ForeignOrigin
from tests.service.conftest import RunningServer

LOCAL = ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7:80", "cellstream", "a.localhost"]
FOREIGN = ["evil.example", "evil.example:8000", "8.8.8.8", "[2606:4700::1]:80", "localhost.evil.example", ""]


@pytest.mark.parametrize("host", LOCAL)
def test_local_names_are_answered(host: str) -> None:
    """Loopback and private addresses, and names of one label, as Host and as Origin."""
    LocalOrigins().check(host.encode(), None)
    LocalOrigins().check(b"localhost", b"http://" + host.encode())
    LocalOrigins().check(None, None)


@pytest.mark.parametrize("host", FOREIGN)
def test_public_names_are_refused(host: str) -> None:
    """As Host, which a page reaches by pointing its own name at this machine, and as Origin; so is an opaque origin."""
    origins = LocalOrigins()
    for _ in range(2):
        with pytest.raises(ForeignOrigin):
            origins.check(host.encode(), None)
        with pytest.raises(ForeignOrigin):
            origins.check(b"localhost", b"https://" + host.encode())
        with pytest.raises(ForeignOrigin):
            origins.check(b"localhost", b"null")


def test_a_page_of_another_origin_reaches_neither_models_nor_streams(server: RunningServer) -> None:
    """Over HTTP, with and without the fast path's operations, under /v2, and by a WebSocket's handshake."""
    headers = {"origin": "https://evil.example"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        for method, path in (
            ("GET", "/v1/models"),
            ("POST", "/v1/models/lstm/sessions"),
            ("GET", "/metrics"),
            ("POST", "/v2/repository/models/lstm/unload"),
            ("POST", "/v2/models/lstm/infer"),
        ):
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin"), path
    with pytest.raises(InvalidStatus, match="403"):
        connect(server.url.replace("http", "ws") + "/v1/models/lstm/stream", additional_headers=headers)


def test_keys_replace_the_check(artifacts: Path, tmp_path: Path) -> None:
    """A key cannot be known by somebody else's page, so requests with one may come from any origin."""
    keys = tmp_path / "keys"
    keys.write_text("t:" + "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")
    server = RunningServer(artifacts, "--api-key-file", str(keys))
    try:
        headers = {"x-api-key": "foo", "origin": "https://app.example", "host": "models.example"}
        assert httpx.get(server.url + "/v1/models", headers=headers).status_code == 200
    finally:
        server.stop()
