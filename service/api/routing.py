"""What all routes share: how one calls its operation, and how it is documented."""

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from service.api.handler import Gate, Operation, Reply
from service.api.schemas import ErrorBody
from service.errors import ClientGone

BYTES: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
"""How OpenAPI describes raw bytes, of a request or of an answer."""


async def answer(gate: Gate, name: str, operation: Operation, argument: str, request: Request) -> Response:
    """Run an operation behind the gate and return its answer, byte for byte what the hot lane sends."""
    try:
        return response(await gate.run(name, operation, argument, request.scope, request.receive))
    except ClientGone:
        return Response(status_code=400)  # nobody is there to read it


def response(reply: Reply) -> Response:
    """Return an operation's answer as FastAPI wants it."""
    status, headers, body = reply
    result = Response(body, status_code=status)
    result.raw_headers = [*headers, (b"content-length", b"%d" % len(body))] if status != 204 else headers
    return result


def body_of(schema: type[BaseModel], required: bool = True) -> dict[str, Any]:
    """Document a request body that the operation itself reads."""
    described = schema.model_json_schema()
    content = {"application/json": {"schema": _inlined(described, described.pop("$defs", {}))}}
    return {"requestBody": {"required": required, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema in which definitions stand where they were referred to."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the errors a route answers, beside those of every route."""
    return {status: {"model": ErrorBody} for status in (401, *statuses)}
