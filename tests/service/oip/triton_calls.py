"""Calls of the unmodified tritonclient, in a process of its own, since gevent patches the sockets of its process.

Run it as python triton_calls.py TEST HOST:PORT; it needs only tritonclient and numpy, and prints JSON.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException


def tensor(library: Any, chunk: Any, binary: bool = True) -> Any:
    array = np.asarray(chunk, np.float32)[None]
    made = library.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def sequence(address: str, sequence_id: Any, inputs: list[Any], binary: bool, **more: Any) -> list[Any]:
    """Run a whole sequence in chunks of one, then two, then the rest; return all outputs."""
    client, got, at = triton.InferenceServerClient(address), [], 0
    wanted = None if binary else [triton.InferRequestedOutput("y", binary_data=False)]
    for length in (1, 2, len(inputs) - 3):
        result = client.infer(
            "lstm",
            [tensor(triton, inputs[at : at + length], binary)],
            outputs=wanted,
            sequence_id=sequence_id,
            sequence_start=at == 0,
            sequence_end=at + length == len(inputs),
            request_id=f"{sequence_id}-{at}",
            **more,
        )
        at += length
        assert result.get_response()["parameters"]["step"] == at
        got += result.as_numpy("y")[0].tolist()
    client.close()
    return got


def sequences(address: str, inputs: list[Any]) -> dict[str, Any]:
    """Run the sequence with every encoding and both kinds of ids."""
    made = {}
    for binary in (True, False):
        for sequence_id in (binary + 1, f"name-{binary}"):
            made[f"{sequence_id}"] = sequence(address, sequence_id, inputs, binary)
    for algorithm in ("gzip", "deflate"):
        more = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        made[algorithm] = sequence(address, algorithm, inputs, True, **more)
    return made


def together(address: str, inputs: list[Any]) -> dict[str, Any]:
    """Run four sequences with async_infer."""
    client = triton.InferenceServerClient(address, concurrency=4)
    made: dict[str, Any] = {str(n): [] for n in range(4)}
    for at, step in enumerate(inputs):
        flags = {"sequence_start": at == 0, "sequence_end": at == len(inputs) - 1}
        asked = [
            client.async_infer("lstm", [tensor(triton, [step])], sequence_id=n + 100, timeout=5_000_000, **flags)
            for n in range(4)
        ]
        for n, request in enumerate(asked):
            made[str(n)] += request.get_result().as_numpy("y")[0].tolist()
    client.close()
    return made


def with_asyncio(address: str, inputs: list[Any]) -> dict[str, Any]:
    """Run two sequences with the asyncio client, one in JSON, one in binary."""

    async def one(client: Any, name: str, binary: bool) -> list[Any]:
        got = []
        for at, step in enumerate(inputs):
            flags = {"sequence_start": at == 0, "sequence_end": at == len(inputs) - 1}
            result = await client.infer("lstm", [tensor(triton_aio, [step], binary)], sequence_id=name, **flags)
            got += result.as_numpy("y")[0].tolist()
        return got

    async def all_of_them() -> dict[str, Any]:
        async with triton_aio.InferenceServerClient(address) as client:
            done = await asyncio.gather(one(client, "json", False), one(client, "binary", True))
        return dict(zip(("json", "binary"), done, strict=True))

    return asyncio.run(all_of_them())


def fleet(address: str, inputs: list[Any]) -> dict[str, Any]:
    """Advance two sequences, which are opened by name, in one request."""
    client = triton.InferenceServerClient(address)
    names = triton.InferInput("session_id", [2], "BYTES")
    names.set_data_from_numpy(np.array(["left", "right"], dtype=object))
    steps = triton.InferInput("x", [2, len(inputs), len(inputs[0])], "FP32")
    steps.set_data_from_numpy(np.array([inputs, inputs], np.float32))
    result = client.infer("lstm", [steps, names], parameters={"create": True})
    left, right = result.as_numpy("y").tolist()
    client.close()
    return {"left": left, "right": right}


def metadata(address: str, inputs: list[Any]) -> dict[str, Any]:
    """Call everything but infer, including load and unload."""
    client = triton.InferenceServerClient(address)
    client.infer("lstm", [tensor(triton, inputs)], sequence_id=7, sequence_start=True, sequence_end=True)
    made = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": client.is_model_ready("lstm", "1"),
        "nobody": client.is_model_ready("nobody"),
        "server": client.get_server_metadata(),
        "metadata": client.get_model_metadata("lstm"),
        "config": client.get_model_config("lstm", "1"),
        "index": client.get_model_repository_index(),
        "statistics": client.get_inference_statistics("lstm"),
        "all": client.get_inference_statistics(),
    }
    client.unload_model("gru-reset-after")
    made["unloaded"] = client.is_model_ready("gru-reset-after")
    client.load_model("gru-reset-after")
    made["loaded"] = client.is_model_ready("gru-reset-after")
    client.close()
    return made


def errors(address: str, inputs: list[Any]) -> dict[str, Any]:
    """Return the status and sentence of each error."""
    client = triton.InferenceServerClient(address)
    made: dict[str, Any] = {}

    def refused(name: str, call: Any) -> None:
        try:
            call()
        except InferenceServerException as error:
            made[name] = [error.status(), error.message()]

    step = [tensor(triton, inputs[:1])]
    refused("no id", lambda: client.infer("lstm", step))
    refused("no start", lambda: client.infer("lstm", step, sequence_id=999))
    refused("no model", lambda: client.infer("nobody", step, sequence_id=999))
    refused("priority", lambda: client.infer("lstm", step, sequence_id=999, sequence_start=True, priority=1))
    refused("config", lambda: client.load_model("lstm", config="{}"))
    refused("file", lambda: client.load_model("lstm", config="{}", files={"file:1/model.onnx": b"x"}))
    refused("shared memory", lambda: client.get_system_shared_memory_status())
    refused("trace", lambda: client.get_trace_settings())
    client.close()
    return made


def once(address: str, inputs: list[Any]) -> dict[str, Any]:
    """Send one request that starts a sequence."""
    client = triton.InferenceServerClient(address)
    result = client.infer("lstm", [tensor(triton, inputs)], sequence_id=42, sequence_start=True, request_id="r1")
    client.close()
    return {"parameters": result.get_response()["parameters"], "y": result.as_numpy("y")[0].tolist()}


TESTS = {test.__name__: test for test in (sequences, together, with_asyncio, fleet, metadata, errors, once)}

if __name__ == "__main__":
    print(json.dumps(TESTS[sys.argv[1]](sys.argv[2], json.load(sys.stdin))))
