"""Sessions: describe, step, close."""

from fastapi import APIRouter, Request, Response

from service.gate import Gate
from service.operations import Operations
from service.routes.answering import answer, body_of, errors
from service.schemas import SessionAnswer, StepAnswer, StepRequest


def sessions_router(gate: Gate, operations: Operations) -> APIRouter:
    """Return the routes under /v1/sessions."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.get("/{session_id}", response_model=SessionAnswer, responses=errors(404, 410))
    async def describe_session(request: Request, session_id: str) -> Response:
        """Tell a session's step, and how long it will stay."""
        return await answer(gate, "describe_session", operations.describe_session, session_id, request)

    @router.delete("/{session_id}", status_code=204, response_class=Response, responses=errors(404, 410))
    async def close_session(request: Request, session_id: str) -> Response:
        """End a session and let its state go."""
        return await answer(gate, "close_session", operations.close_session, session_id, request)

    @router.post(
        "/{session_id}/steps",
        response_model=StepAnswer,
        responses=errors(400, 404, 410, 413, 422, 503),
        openapi_extra=body_of(StepRequest),
    )
    async def step(request: Request, session_id: str) -> Response:
        """Advance a session by one or more time steps. All of them are taken, or none.

        A body of type application/octet-stream is the chunk as a raw little-endian tensor (T, features); so is its
        answer, with the index of the last step in the header `x-step`.
        """
        return await answer(gate, "step", operations.step, session_id, request)

    return router
