"""The Open Inference Protocol's routes under /v2, with Triton's extensions."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.handler import Call, Gate, Operation, Reply
from service.api.routing import BYTES, body_of, response
from service.codec.binary import HEAD_LENGTH
from service.errors import ClientGone, NotFound
from service.oip.errors import Unsupported, oip_reply
from service.oip.infer import Inference
from service.oip.metadata import Metadata
from service.oip.model_control import Control
from service.oip.schemas import (
    ControlRequest,
    IndexedModel,
    IndexRequest,
    InferRequest,
    InferResponse,
    ModelConfiguration,
    ModelMetadata,
    ModelReady,
    OipError,
    ServerMetadata,
    StatisticsAnswer,
)
from service.oip.statistics import Statistics

_OTHERS = (
    ("GET", "/logging", "the logging extension"),
    ("POST", "/logging", "the logging extension"),
    ("GET", "/trace/setting", "the trace extension"),
    ("POST", "/trace/setting", "the trace extension"),
    ("GET", "/models/{model}/trace/setting", "the trace extension"),
    ("POST", "/models/{model}/trace/setting", "the trace extension"),
    ("POST", "/models/{model}/generate", "the generate extension"),
    ("POST", "/models/{model}/generate_stream", "the generate extension"),
    ("POST", "/models/{model}/versions/{version}/generate", "the generate extension"),
    ("POST", "/models/{model}/versions/{version}/generate_stream", "the generate extension"),
    *(
        (method, f"/{kind}sharedmemory/{rest}", "shared memory")
        for kind in ("system", "cuda")
        for method, rest in (
            ("GET", "status"),
            ("GET", "region/{region}/status"),
            ("POST", "register"),
            ("POST", "region/{region}/register"),
            ("POST", "unregister"),
            ("POST", "region/{region}/unregister"),
        )
    ),
)
"""What Triton's clients may ask for and is not done here."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """The operations of the protocol."""

    inference: Inference
    metadata: Metadata
    statistics: Statistics
    control: Control


def oip_router(gate: Gate, protocol: Protocol) -> APIRouter:
    """Return the routes under /v2."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    metadata, statistics, control = protocol.metadata, protocol.statistics, protocol.control

    async def run(name: str, operation: Operation, argument: str, request: Request) -> Response:
        try:
            return response(await gate.run(name, operation, argument, request.scope, request.receive, oip_reply))
        except ClientGone:
            return Response(status_code=400)  # nobody is there to read it

    @router.get("/health/live", response_class=Response)
    async def server_live() -> Response:
        """Tell that the process answers."""
        return response(metadata.live())

    @router.get("/health/ready", response_class=Response, responses=_errors(400))
    async def server_ready() -> Response:
        """Tell whether new work is welcome."""
        return response(metadata.ready())

    @router.get("", response_model=ServerMetadata, responses=_errors())
    async def server_metadata(request: Request) -> Response:
        """Name the server and its extensions."""
        return await run("oip_server", metadata.server, "", request)

    @router.get("/models/stats", response_model=StatisticsAnswer, responses=_errors())
    async def all_statistics(request: Request) -> Response:
        """Give the statistics of every model."""
        return await run("oip_statistics", statistics.of_all, "", request)

    def of_model(path: str, name: str, operation: Operation, schema: Any, text: str, **documented: Any) -> None:
        """Add a route about a model, and the same about a version of it."""

        async def plain(request: Request, model: str) -> Response:
            return await run(name, operation, model, request)

        async def versioned(request: Request, model: str, version: str) -> Response:
            if not (version.isascii() and version.isdigit()):
                return response(oip_reply(NotFound()))
            return await run(name, operation, f"{model}/{version}", request)

        for prefix, endpoint in (("/models/{model}", plain), ("/models/{model}/versions/{version}", versioned)):
            router.add_api_route(
                prefix + path,
                endpoint,
                name=f"{name}_{endpoint.__name__}",
                summary=text,
                response_model=schema,
                **documented,
            )

    of_model("", "oip_model", metadata.model, ModelMetadata, "Describe a model", responses=_errors(404))
    of_model("/ready", "oip_ready", metadata.model_ready, ModelReady, "Is a model ready", responses=_errors(400))
    of_model("/config", "oip_config", metadata.config, ModelConfiguration, "Configuration", responses=_errors(404))
    of_model("/stats", "oip_statistics", statistics.of_model, StatisticsAnswer, "Statistics", responses=_errors(404))
    of_model(
        "/infer",
        "infer",
        protocol.inference.infer,
        InferResponse,
        "Advance sequences, or run whole ones",
        methods=["POST"],
        responses={200: {"content": BYTES}, **_errors(400, 404, 409, 413, 501, 503)},
        openapi_extra=_infer_body(),
    )

    @router.post(
        "/repository/index",
        response_model=list[IndexedModel],
        responses=_errors(400),
        openapi_extra=body_of(IndexRequest, required=False),
    )
    async def repository_index(request: Request) -> Response:
        """List the models of the repository, served or not."""
        return await run("oip_index", control.index, "", request)

    @router.post(
        "/repository/models/{model}/load",
        response_class=Response,
        responses=_errors(400, 503),
        openapi_extra=body_of(ControlRequest, required=False),
    )
    async def load_model(request: Request, model: str) -> Response:
        """Serve a model's newest version, where the service was started with --model-control."""
        return await run("oip_load", control.load, model, request)

    @router.post(
        "/repository/models/{model}/unload",
        response_class=Response,
        responses=_errors(400, 404, 503),
        openapi_extra=body_of(ControlRequest, required=False),
    )
    async def unload_model(request: Request, model: str) -> Response:
        """Take a model out of service, where the service was started with --model-control; its sessions end."""
        return await run("oip_unload", control.unload, model, request)

    for method, path, what in _OTHERS:
        router.add_api_route(path, _refusing(run, what), methods=[method], include_in_schema=False)
    return router


def _refusing(run: Any, what: str) -> Any:
    async def refuse(call: Call) -> Reply:
        raise Unsupported(what)

    async def refused(request: Request) -> Response:
        answer: Response = await run("oip_unsupported", refuse, "", request)
        return answer

    return refused


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the errors a route answers, and that those of every route look the same."""
    described: dict[int | str, dict[str, Any]] = {status: {"model": OipError} for status in statuses}
    return described | {"default": {"model": OipError, "description": "Any other error"}}


def _infer_body() -> dict[str, Any]:
    """Document the body of an infer request, JSON with or without raw tensors behind it."""
    body = body_of(InferRequest)
    body["requestBody"]["content"] |= BYTES
    length = {"type": "integer", "minimum": 0, "description": "Bytes of the JSON, where raw tensors follow it."}
    return body | {"parameters": [{"name": HEAD_LENGTH.decode(), "in": "header", "required": False, "schema": length}]}
