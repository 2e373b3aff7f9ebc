"""The memory of a session: python -m benchmarks.weights COUNT prints JSON, which benchmarks.sessions shows.

The service runs in this process; many sessions are opened in its table, and each is stepped once by fleet steps. The
growth of the process's memory, less the rows of state, is the memory of the Python objects.
"""

import asyncio
import gc
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import orjson

from benchmarks.sessions import FLEET, SMALL_FEATURES, SMALL_HIDDEN, write_small
from service.api.request import Call, Message
from service.app import Service
from service.sessions.session import Session
from service.settings import Settings

_STATE_BYTES = 2 * SMALL_HIDDEN * 4


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


async def measure(count: int, artifacts: Path) -> dict[str, object]:
    """Return the bytes per session `before` and `after` its first step, and the `parts` of the latter."""
    service = Service(Settings(artifacts=artifacts, max_sessions=count + FLEET, idle_limit=86_400, watch=0))
    service.open()
    model = service.repository.find("small")
    await _step(service, [service.sessions.create("public", model, 86_400.0).id for _ in range(FLEET)])
    empty = resident()
    ids = []
    for _ in range(count):
        ids.append(service.sessions.create("public", model, service.settings.idle_limit).id)  # noqa: PERF401
    own = sys.getsizeof(ids) / count
    before = (resident() - empty) / count - own
    for first in range(0, count, FLEET):
        await _step(service, ids[first : first + FLEET])
    after = (resident() - empty) / count - own - _STATE_BYTES
    parts = _parts(service.sessions.find(ids[-1], "public"))
    parts["tables of sessions and expiry, and the allocator"] = after - sum(parts.values())
    service.close()
    return {"before": before, "after": after, "parts": parts}


async def _step(service: Service, ids: list[str]) -> None:
    raw = np.zeros((len(ids), 1, SMALL_FEATURES), "<f4").tobytes()
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [len(ids), 1, SMALL_FEATURES],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = orjson.dumps({"sessions": ids, "inputs": [tensor]})

    async def receive() -> Message:
        return {"type": "http.request", "body": head + raw}

    headers = {b"inference-header-content-length": b"%d" % len(head)}
    scope = {"headers": list(headers.items()), "query_string": b""}
    call = Call("small", scope, receive)
    status, _, body = await service.handler.run(service.model_operations.fleet, call)
    assert status == 200, body


def _parts(session: Session) -> dict[str, float]:
    return {
        "the session object": sys.getsizeof(session),
        "its id": sys.getsizeof(session.id),
        "the stored answer": sys.getsizeof(session.answer),
        "the digest of the last request": sys.getsizeof(session.digest),
        "the time of its last use": sys.getsizeof(session.used) / FLEET,
        "its slot": sys.getsizeof(session.slot),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_small(Path(folder))
        print(json.dumps(asyncio.run(measure(int(sys.argv[1]), Path(folder)))))
