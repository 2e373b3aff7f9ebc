"""Routes of sessions: list, describe, extend, close, step, peek, fork, rewind, snapshot and restore."""

from fastapi import APIRouter, Query, Request, Response

from service.api.handler import Handler
from service.api.routing import BYTES, answer, body_of, errors
from service.api.schemas import (
    ExtendSession,
    ForkSession,
    RewindSession,
    SessionAnswer,
    SessionList,
    StepAnswer,
    StepBody,
)
from service.api.session_operations import SessionOperations


def sessions_router(handler: Handler, operations: SessionOperations) -> APIRouter:
    """Return the routes under /v1/sessions."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.get("", response_model=SessionList, responses=errors(422))
    async def list_sessions(
        request: Request,
        limit: str = Query("100", description="most sessions on a page, up to 1000"),
        after: str | None = Query(None, description="`next` of the page before"),
    ) -> Response:
        """List your sessions, the oldest first, one page at a time."""
        return await answer(handler, operations.list, "", request)

    @router.get("/{session_id}", response_model=SessionAnswer, responses=errors(404, 410))
    async def describe_session(request: Request, session_id: str) -> Response:
        """Describe a session: its step, its limits, and when it expires."""
        return await answer(handler, operations.describe, session_id, request)

    @router.patch(
        "/{session_id}",
        response_model=SessionAnswer,
        responses=errors(400, 404, 410, 413, 422),
        openapi_extra=body_of(ExtendSession),
    )
    async def extend_session(request: Request, session_id: str) -> Response:
        """Change the idle limit of a session, counted from now."""
        return await answer(handler, operations.extend, session_id, request)

    @router.delete("/{session_id}", status_code=204, response_class=Response, responses=errors(404, 410))
    async def close_session(request: Request, session_id: str) -> Response:
        """End a session and release its state."""
        return await answer(handler, operations.close, session_id, request)

    @router.post(
        "/{session_id}/steps",
        response_model=StepAnswer,
        responses=errors(400, 404, 409, 410, 413, 422, 429, 503),
        openapi_extra=body_of(StepBody),
    )
    async def step(request: Request, session_id: str) -> Response:
        """Advance a session by one or more time steps. All of them are taken, or none.

        A request that numbers its first `step` takes effect once, however often it is sent: the last request, sent
        again unchanged, gets the stored response.

        A body of type application/octet-stream is the chunk as a raw little-endian tensor (T, features), numbered by
        the header `x-step`; so is its response, with the index of the last step in the header `x-step`.
        """
        return await answer(handler, operations.step, session_id, request)

    @router.post(
        "/{session_id}/peek",
        response_model=StepAnswer,
        responses=errors(400, 404, 409, 410, 413, 422, 429, 503),
        openapi_extra=body_of(StepBody),
    )
    async def peek(request: Request, session_id: str) -> Response:
        """Return what a step would return, without advancing the session."""
        return await answer(handler, operations.peek, session_id, request)

    @router.post(
        "/{session_id}/fork",
        status_code=201,
        response_model=SessionAnswer,
        responses=errors(400, 404, 410, 413, 422, 429, 503),
        openapi_extra=body_of(ForkSession, required=False),
    )
    async def fork(request: Request, session_id: str) -> Response:
        """Open a session with the state of this one; options that are not given are copied from this one."""
        return await answer(handler, operations.fork, session_id, request)

    @router.post(
        "/{session_id}/rewind",
        response_model=SessionAnswer,
        responses=errors(400, 404, 409, 410, 413, 422),
        openapi_extra=body_of(RewindSession),
    )
    async def rewind(request: Request, session_id: str) -> Response:
        """Take back the last requests, at most as many as the session's `keep`; its epoch is raised by one."""
        return await answer(handler, operations.rewind, session_id, request)

    @router.get(
        "/{session_id}/state",
        response_class=Response,
        responses={200: {"content": BYTES}, **errors(404, 409, 410)},
    )
    async def read_state(request: Request, session_id: str) -> Response:
        """Return a snapshot of the session's state: a safetensors file with a checksum."""
        return await answer(handler, operations.read_state, session_id, request)

    @router.put(
        "/{session_id}/state",
        response_model=SessionAnswer,
        responses=errors(404, 409, 410, 413, 422),
        openapi_extra={"requestBody": {"required": True, "content": BYTES}},
    )
    async def write_state(request: Request, session_id: str) -> Response:
        """Replace the session's state by a snapshot of the same model and version; its epoch is raised by one."""
        return await answer(handler, operations.write_state, session_id, request)

    return router
