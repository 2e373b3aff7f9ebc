"""HTTP as bytes: pipelining, methods, lines and headers that are none, requests that stop coming."""

from tests.recorded.client import Client, json_bytes
from tests.recorded.script import Family
from tests.recorded.wire import request

_LIVE = request("GET", "/livez")


def play(client: Client) -> None:
    session = client.open()
    steps = [request("POST", f"{session}/steps", json_bytes({"inputs": [[value]]})) for value in range(1, 5)]
    client.raw(b"".join(steps), ["POST"] * 4)
    client.raw(
        steps[0] + _LIVE + steps[1] + request("GET", "/nowhere") + steps[2], ["POST", "GET", "POST", "GET", "POST"]
    )
    client.raw(steps[0] + b"GARBAGE\r\n\r\n", ["POST", "GET"])
    client.raw(
        steps[0] + steps[1].replace(b"host: service", b"host: service\r\nconnection: close") + steps[2], ["POST"] * 3
    )
    client.raw(request("HEAD", "/livez") + request("OPTIONS", f"{session}/steps") + _LIVE, ["HEAD", "OPTIONS", "GET"])
    _connections(client, steps[3])
    _lines(client)
    _bodies(client, session)
    _heads(client)
    _unfinished(client, steps[3])
    client.get(session)
    client.get("/metrics")


def _connections(client: Client, step: bytes) -> None:
    """Ask for connections to be closed or kept."""
    for line in (b"connection: close", b"connection: keep-alive", b"Connection: Close", b"connection: upgrade"):
        for sent, method in ((step, "POST"), (_LIVE, "GET"), (request("GET", "/nowhere"), "GET")):
            client.raw(sent.replace(b"host: service", b"host: service\r\n" + line), [method])
    for sent, method in ((step, "POST"), (_LIVE, "GET")):
        client.raw(sent.replace(b"HTTP/1.1", b"HTTP/1.0"), [method])
        client.raw(
            sent.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n\r\n", b"\r\nconnection: keep-alive\r\n\r\n"), [method]
        )


def _lines(client: Client) -> None:
    """Send request lines that are none, or unusual."""
    for line in (
        *(b"", b"GET", b"GET /livez", b"GET /livez HTTP/2.0", b"GET /livez HTTP/1.2", b"get /livez HTTP/1.1"),
        *(b"GET  /livez HTTP/1.1", b"GET /livez\tHTTP/1.1", b"FOO /livez HTTP/1.1", b"GET livez HTTP/1.1"),
        *(
            b"GET http://service/livez HTTP/1.1",
            b"GET * HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"CONNECT service:80 HTTP/1.1",
        ),
        *(
            b"GET /livez?x=\xff HTTP/1.1",
            b"GET /liv\xc3\xa9z HTTP/1.1",
            b"GET /%6Civez HTTP/1.1",
            b"GET /livez#x HTTP/1.1",
        ),
        *(
            b"GET /../livez HTTP/1.1",
            b"GET //livez HTTP/1.1",
            b"GET /livez%00 HTTP/1.1",
            b"\x16\x03\x01\x02\x00\x01",
            b"\0",
        ),
        *(b"PRI * HTTP/2.0", b"GET /v1/models/%C3%A9 HTTP/1.1", b"POST /v1/sessions/a%2Fb/steps HTTP/1.1"),
    ):
        client.raw(line + b"\r\nhost: service\r\n\r\n")
    client.raw(b"\r\n\r\n" + _LIVE)
    client.raw(_LIVE.replace(b"\r\n", b"\n"))


def _bodies(client: Client, session: str) -> None:
    """Tell a body's length in every way."""
    head = f"POST {session}/steps HTTP/1.1\r\nhost: service\r\n".encode()
    body = b'{"inputs":[[1]]}'
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    parts = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\nx-step: 1\r\n\r\n" % (body[:5], len(body) - 5, body[5:])
    chunked = b"transfer-encoding: chunked\r\n\r\n"
    for rest in (
        *(
            chunked + whole,
            chunked + parts,
            chunked + b"0\r\n\r\n",
            chunked + b"x\r\n\r\n",
            chunked + b"5;a=b\r\n[[1]]\r\n0\r\n\r\n",
        ),
        *(
            b"content-length: 16\r\n" + chunked + whole,
            b"transfer-encoding: gzip\r\n\r\n",
            b"content-length: -1\r\n\r\n",
        ),
        *(b"content-length: x\r\n\r\n", b"content-length: 16\r\ncontent-length: 16\r\n\r\n" + body, b"\r\n"),
        *(b"content-length: 16\r\ncontent-length: 17\r\n\r\n" + body, b"content-length: 0\r\n\r\n"),
        *(
            b"content-length: 99999999999999999999\r\n\r\n",
            b"content-length: 16\r\nexpect: 100-continue\r\n\r\n" + body,
        ),
        *(b"content-length: 2000000\r\n\r\n" + b" " * 70_000, chunked + b"%x\r\n%b\r\n" % (1 << 21, b" " * (1 << 21))),
    ):
        client.raw(head + rest, ["POST"], end=rest.startswith((b"transfer-encoding: gzip", b"content-length: 2000000")))
    client.raw(request("GET", "/livez", b"a body"))
    client.raw(request("DELETE", "/v1/sessions/none", b"a body"), ["DELETE"])


def _heads(client: Client) -> None:
    """Send headers that are none, unusual or too long."""
    for line in (
        *(
            b"no colon",
            b": empty",
            b"a b: c",
            b"x: \0",
            b"x: \x7f",
            b"x:y",
            b"x : y",
            b"X-Request-Id: MiXed",
            b" folded: x",
        ),
        *(b"x-request-id: a\r\nx-request-id: b", b"host: other", b"x: " + b"y" * 60_000, b"upgrade: websocket"),
        b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: x",
    ):
        client.raw(b"GET /livez HTTP/1.1\r\nhost: service\r\n" + line + b"\r\n\r\n")
    client.raw(b"GET /livez HTTP/1.1\r\n\r\n")
    client.raw(b"GET /livez HTTP/1.1\r\nx: " + b"y" * 70_000)
    client.raw(b"GET /livez?" + b"y" * 70_000)
    client.raw(_LIVE.replace(b"\r\n\r\n", b"\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(200)) + b"\r\n"))


def _unfinished(client: Client, step: bytes) -> None:
    """Begin requests and send no more of them."""
    for sent in (b"GET /livez", _LIVE[:-2], step[:-3], _LIVE + step[:-3], step + _LIVE[:9], b"G"):
        client.raw(sent, ["GET", "GET"])
    for sent in (b"", step[:-3], _LIVE, b"GET /liv"):
        client.raw(sent, end=True)


FAMILY = Family(play, ("sum",), ("--request-timeout", "0.7"))
