"""What all FastAPI routes share: running their operation, and documenting it."""

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from service.api.handler import Handler
from service.api.request import REQUEST_ID, Call, Operation, Reply
from service.api.schemas import ErrorBody
from service.errors import ClientGone

BYTES: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
"""OpenAPI's description of a body of raw bytes."""


async def answer(handler: Handler, operation: Operation, argument: str, request: Request) -> Response:
    """Run an operation and return its reply, the same bytes that the fast path sends."""
    call = Call(argument, request.scope, request.receive)
    try:
        reply = await handler.run(operation, call)
    except ClientGone:
        return Response(status_code=400)  # it is not sent: the client has closed the connection
    reply[1].append((REQUEST_ID, call.request_id))
    return response(reply)


def response(reply: Reply) -> Response:
    """Return a reply as a FastAPI response."""
    status, headers, body = reply
    result = Response(body, status_code=status)
    result.raw_headers = [*headers, (b"content-length", b"%d" % len(body))] if status != 204 else headers
    return result


def body_of(schema: type[BaseModel], required: bool = True) -> dict[str, Any]:
    """Document a request body that the operation parses itself, without FastAPI."""
    described = schema.model_json_schema()
    content = {"application/json": {"schema": _inlined(described, described.pop("$defs", {}))}}
    return {"requestBody": {"required": required, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with its references replaced by the definitions."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the error responses of a route, and 401, which every route has."""
    return {status: {"model": ErrorBody} for status in (401, *statuses)}
