"""The servers with which cellstream is compared: minimal ones without a model, and a typical handwritten service.

Each is an ASGI application, served by `python -m benchmarks.peers NAME --port P`:

bare            no model: parse the JSON with the standard library, return four of its numbers
bare_ws         no model: answer each binary frame with its first four floats
pydantic        no model: FastAPI with a typed request and response
dict_of_states  FastAPI, a dict of states, one onnxruntime run per request
"""

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

MODEL_VARIABLE = "CELLSTREAM_BENCH_MODEL"


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer any POST with the first four numbers of its inputs."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = json.dumps({"y": json.loads(body)["inputs"][0][:4]}).encode() if body else b"{}"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def bare_ws(scope: Any, receive: Any, send: Any) -> None:
    """Answer any binary frame with its first sixteen bytes."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"][:16]})


async def _lifespan(receive: Any, send: Any) -> None:
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


class StepBody(BaseModel):
    inputs: list[list[float]]


class StepReply(BaseModel):
    outputs: list[list[float]]
    step: int


def pydantic() -> FastAPI:
    """Return a FastAPI application as in its tutorial, without a model."""
    app = FastAPI()

    @app.post("/v1/sessions/{session}/steps")
    async def step(session: str, body: StepBody) -> StepReply:
        return StepReply(outputs=[row[:4] for row in body.inputs], step=len(session))

    return app


def dict_of_states() -> FastAPI:
    """Return a typical handwritten application: a dict from session to state, and one run per request in a thread."""
    app = FastAPI()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = ort.InferenceSession(os.environ[MODEL_VARIABLE], options, providers=["CPUExecutionProvider"])
    zeros = [np.zeros((1, 1, node.shape[2]), np.float32) for node in model.get_inputs()[1:]]
    names = [node.name for node in model.get_inputs()[1:]]
    states: dict[str, list[np.ndarray]] = {}
    thread = ThreadPoolExecutor(1)
    locks: dict[str, asyncio.Lock] = {}

    @app.post("/v1/sessions/{session}/steps")
    async def step(session: str, body: StepBody) -> StepReply:
        async with locks.setdefault(session, asyncio.Lock()):
            feeds = dict(zip(names, states.get(session, zeros), strict=True))
            feeds["x"] = np.array(body.inputs, np.float32)[:, None]
            y, *new_states = await asyncio.get_running_loop().run_in_executor(thread, model.run, None, feeds)
            states[session] = new_states
        return StepReply(outputs=y[:, 0].tolist(), step=1)

    return app


def main() -> None:
    """Serve the peer named on the command line."""
    name, port = sys.argv[1], int(sys.argv[3])
    application: Any = {"bare": bare, "bare_ws": bare_ws}.get(name) or {
        "pydantic": pydantic,
        "dict_of_states": dict_of_states,
    }[name]()
    uvicorn.run(application, port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
