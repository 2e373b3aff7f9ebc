"""The server itself: health, metrics, description, paths and methods that are not served."""

from tests.recorded.client import Client
from tests.recorded.script import Family

_NOT_SERVED = (
    *("/", "/v1", "/v1/", "/v2/", "/v1/models/", "/v1/sessions/", "/v3", "/livez/", "/v1/models/sum/", "//v1/models"),
    *("/v1/models/sum/steps", "/v1/sessions/none/predict", "/v1/models/sum/sessions/", "/V1/models", "/v2/models"),
    *("/v1/models/sum/predict/", "/v1/sessions/none/steps/", "/v2/models/sum/infer/", "/v2/models/sum/versions"),
    *("/v2/models/sum/versions/x", "/v2/models/sum/versions/x/infer", "/v2/nothing", "/favicon.ico", "/v1/fleet"),
)
_OTHER_METHODS = (
    ("DELETE", "/v1/models"),
    ("POST", "/v1/models"),
    ("POST", "/v1/models/sum"),
    ("GET", "/v1/models/sum/predict"),
    ("GET", "/v1/models/sum/fleet"),
    ("GET", "/v1/models/sum/sessions"),
    ("PUT", "/v1/models/sum/sessions"),
    ("POST", "/v1/sessions"),
    ("POST", "/v1/sessions/none"),
    ("PUT", "/v1/sessions/none"),
    ("GET", "/v1/sessions/none/steps"),
    ("DELETE", "/v1/sessions/none/steps"),
    ("GET", "/v1/sessions/none/peek"),
    ("GET", "/v1/sessions/none/fork"),
    ("PATCH", "/v1/sessions/none/rewind"),
    ("POST", "/v1/sessions/none/state"),
    ("POST", "/livez"),
    ("DELETE", "/readyz"),
    ("POST", "/metrics"),
    ("GET", "/v2/models/sum/infer"),
    ("POST", "/v2"),
    ("POST", "/v2/models/sum"),
    ("DELETE", "/v2/models/sum/config"),
    ("POST", "/v2/health/ready"),
    ("GET", "/v2/repository/index"),
    ("GET", "/v2/repository/models/sum/load"),
    ("PURGE", "/v1/models"),
)
_UNSUPPORTED = (
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/models/sum/trace/setting"),
    ("POST", "/v2/models/sum/generate"),
    ("POST", "/v2/models/sum/generate_stream"),
    ("POST", "/v2/models/sum/versions/1/generate"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("GET", "/v2/systemsharedmemory/region/r/status"),
    ("POST", "/v2/systemsharedmemory/region/r/register"),
    ("POST", "/v2/cudasharedmemory/region/r/unregister"),
    ("POST", "/v2/systemsharedmemory/unregister"),
)


def play(client: Client) -> None:
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs", "/redoc"):
        client.get(path)
        client.request("HEAD", path)
        client.request("OPTIONS", path)
    for path in _NOT_SERVED:
        client.get(path)
        client.post(path, {})
    client.post("/v1/models//sessions", {})
    client.post("/v1/sessions//steps", {})
    client.post("/v2/models//infer", {})
    for method, path in (*_OTHER_METHODS, *_UNSUPPORTED):
        client.request(method, path, None)
    _request_ids(client)
    _of_the_protocol(client)
    client.get("/metrics")


def _request_ids(client: Client) -> None:
    """Send ids of requests' own, good ones and others."""
    for value in ("mine", "a b", "x" * 128, "x" * 129, "\xe9", "!~", ""):
        for path in ("/livez", "/v1/models/none", "/v1/nowhere", "/v2/models/none"):
            client.get(path, {"x-request-id": value})
        client.post("/v1/sessions/none/steps", {"inputs": [[1]]}, {"x-request-id": value})


def _of_the_protocol(client: Client) -> None:
    """Ask what the Open Inference Protocol tells of a server and its models."""
    client.get("/v2")
    for name in ("sum", "pair", "tokens", "mixed", "kinds", "half", "stateless", "whole", "none"):
        for rest in ("", "/ready", "/config"):
            client.get(f"/v2/models/{name}{rest}")
    for version in ("1", "01", "2", "0", "99999999999999999999"):
        for rest in ("", "/ready", "/config", "/stats"):
            client.get(f"/v2/models/sum/versions/{version}{rest}")
    client.get("/v2/models/stats")
    client.get("/v2/models/sum/stats")
    client.get("/v2/models/none/stats")
    client.post("/v2/repository/index")
    client.post("/v2/models/stateless/infer", {"inputs": []})


FAMILY = Family(play, ("sum", "pair", "tokens", "mixed", "kinds", "half", "stateless", "whole"))
