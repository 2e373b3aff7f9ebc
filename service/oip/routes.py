"""The routes of the Open Inference Protocol under /v2, with Triton's extensions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.handler import Handler
from service.api.request import Call, Endpoint, Operation, OperationOf, Reply
from service.api.routing import BYTES, answer, body_of, response
from service.codec.binary import HEAD_LENGTH
from service.errors import NotFound, Role
from service.oip.errors import Unsupported, oip_reply
from service.oip.infer import Inference
from service.oip.metadata import Metadata
from service.oip.model_control import MAX_BODY, ModelControl
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
from service.oip.statistics import ModelStatistics

_UNSUPPORTED = (
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
"""Routes of Triton that are not supported here: method, path, and the extension they belong to."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """The operations of the protocol."""

    inference: Inference
    metadata: Metadata
    statistics: ModelStatistics
    control: ModelControl


def oip_router(handler: Handler, protocol: Protocol) -> APIRouter:
    """Return the routes under /v2."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    metadata, statistics, control = protocol.metadata, protocol.statistics, protocol.control

    async def run(operation: Operation, argument: str, request: Request) -> Response:
        return await answer(handler, operation, argument, request)

    @router.get("/health/live", response_class=Response)
    async def server_live() -> Response:
        """Report that the process is running."""
        return response(metadata.live())

    @router.get("/health/ready", response_class=Response, responses=_errors(400))
    async def server_ready() -> Response:
        """Report whether the service accepts new work."""
        return response(metadata.ready())

    @router.get("", response_model=ServerMetadata, responses=_errors())
    async def server_metadata(request: Request) -> Response:
        """Return the name, version and extensions of the server."""
        return await run(_operation("oip_server", metadata.server), "", request)

    @router.get("/models/stats", response_model=StatisticsAnswer, responses=_errors(403))
    async def all_statistics(request: Request) -> Response:
        """Return the statistics of every model."""
        return await run(_statistics(statistics.of_all), "", request)

    def of_model(path: str, operation: Operation, schema: Any, text: str, **documented: Any) -> None:
        """Add a route for a model, and the same route for a version of it."""

        async def plain(request: Request, model: str) -> Response:
            return await run(operation, model, request)

        async def versioned(request: Request, model: str, version: str) -> Response:
            if not (version.isascii() and version.isdigit()):
                return response(oip_reply(NotFound()))
            return await run(operation, f"{model}/{version}", request)

        for prefix, endpoint in (("/models/{model}", plain), ("/models/{model}/versions/{version}", versioned)):
            router.add_api_route(
                prefix + path,
                endpoint,
                name=f"{operation.name}_{endpoint.__name__}",
                summary=text,
                response_model=schema,
                **documented,
            )

    of_model("", _operation("oip_model", metadata.model), ModelMetadata, "Describe a model", responses=_errors(404))
    of_model(
        "/ready",
        _operation("oip_ready", metadata.model_ready),
        ModelReady,
        "Report whether a model is ready",
        responses=_errors(400),
    )
    of_model(
        "/config",
        _operation("oip_config", metadata.config),
        ModelConfiguration,
        "Return the configuration of a model",
        responses=_errors(404),
    )
    of_model(
        "/stats",
        _statistics(statistics.of_model),
        StatisticsAnswer,
        "Return the statistics of a model",
        responses=_errors(403, 404),
    )
    of_model(
        "/infer",
        protocol.inference.infer,
        InferResponse,
        "Advance sequences, or run whole sequences",
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
        """List the models of the repository, in service or not."""
        return await run(_operation("oip_index", control.index, MAX_BODY), "", request)

    @router.post(
        "/repository/models/{model}/load",
        response_class=Response,
        responses=_errors(400, 403, 503),
        openapi_extra=body_of(ControlRequest, required=False),
    )
    async def load_model(request: Request, model: str) -> Response:
        """Put the newest version of a model in service; needs a service started with --model-control."""
        return await run(_operation("oip_load", control.load, MAX_BODY, control.role), model, request)

    @router.post(
        "/repository/models/{model}/unload",
        response_class=Response,
        responses=_errors(400, 403, 404, 503),
        openapi_extra=body_of(ControlRequest, required=False),
    )
    async def unload_model(request: Request, model: str) -> Response:
        """Take a model out of service, which ends its sessions; needs a service started with --model-control."""
        return await run(_operation("oip_unload", control.unload, MAX_BODY, control.role), model, request)

    for method, path, what in _UNSUPPORTED:
        router.add_api_route(path, _refusing(run, what), methods=[method], include_in_schema=False)
    return router


def _operation(name: str, endpoint: Endpoint, body_limit: int | None = None, role: Role | None = None) -> Operation:
    return OperationOf(name, endpoint, oip_reply, body_limit, role=role)


def _statistics(endpoint: Endpoint) -> Operation:
    return OperationOf("oip_statistics", endpoint, oip_reply, role=Role.METRICS)


def _refusing(run: Callable[[Operation, str, Request], Awaitable[Response]], what: str) -> Any:
    """Return a route that answers that `what` is not supported."""

    async def refuse(call: Call, body: bytes) -> Reply:
        raise Unsupported(what)

    operation = _operation("oip_unsupported", refuse)

    async def refused(request: Request) -> Response:
        return await run(operation, "", request)

    return refused


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the error responses of a route; those with any other status have the same body."""
    described: dict[int | str, dict[str, Any]] = {status: {"model": OipError} for status in statuses}
    return described | {"default": {"model": OipError, "description": "Any other error"}}


def _infer_body() -> dict[str, Any]:
    """Document the body of an infer request: JSON, followed by raw tensors or not."""
    body = body_of(InferRequest)
    body["requestBody"]["content"] |= BYTES
    length = {
        "type": "integer",
        "minimum": 0,
        "description": "Length of the JSON in bytes, where raw tensors follow it.",
    }
    return body | {"parameters": [{"name": HEAD_LENGTH.decode(), "in": "header", "required": False, "schema": length}]}
