"""Routes of models: listing, predictions of whole sequences, fleet steps, new sessions."""

from fastapi import APIRouter, Request, Response

from service.api.handler import Handler
from service.api.model_operations import ModelOperations
from service.api.routing import answer, body_of, errors
from service.api.schemas import (
    FleetAnswer,
    FleetBody,
    ModelAnswer,
    ModelList,
    OpenSession,
    PredictAnswer,
    PredictBody,
    SessionAnswer,
)


def models_router(handler: Handler, operations: ModelOperations) -> APIRouter:
    """Return the routes under /v1/models."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("", response_model=ModelList, responses=errors())
    async def list_models(request: Request) -> Response:
        """List the models that are served."""
        return await answer(handler, operations.list, "", request)

    @router.get("/{model}", response_model=ModelAnswer, responses=errors(404))
    async def describe_model(request: Request, model: str) -> Response:
        """Return a model's card, and how the service runs it."""
        return await answer(handler, operations.describe, model, request)

    @router.post(
        "/{model}/predict",
        response_model=PredictAnswer,
        responses=errors(400, 404, 413, 422, 429, 503),
        openapi_extra=body_of(PredictBody),
    )
    async def predict(request: Request, model: str) -> Response:
        """Run whole sequences, of any lengths, from the initial state. No state is kept.

        A body of type application/octet-stream is one sequence as a raw little-endian tensor; so is its response.
        """
        return await answer(handler, operations.predict, model, request)

    @router.post(
        "/{model}/fleet",
        tags=["sessions"],
        response_model=FleetAnswer,
        responses=errors(400, 404, 413, 422, 429, 503),
        openapi_extra=body_of(FleetBody),
    )
    async def fleet(request: Request, model: str) -> Response:
        """Advance many sessions by one request; a row that fails does not affect the others.

        With the header `Inference-Header-Content-Length` the body is a JSON head of that many bytes, whose `inputs` is
        one tensor {name, shape: [rows, steps, …], datatype, parameters: {binary_data_size}}, and then its raw
        little-endian bytes; the response has the same layout, and NaN in the rows that failed.
        """
        return await answer(handler, operations.fleet, model, request)

    @router.post(
        "/{model}/sessions",
        status_code=201,
        tags=["sessions"],
        response_model=SessionAnswer,
        responses=errors(400, 404, 409, 410, 413, 422, 429, 503),
        openapi_extra=body_of(OpenSession, required=False),
    )
    async def open_session(request: Request, model: str) -> Response:
        """Open a session; the header `Location` gives its path.

        It begins with the model's initial state, with the state after a `history`, or with a snapshot: a `state` in
        base64, or a body of type application/octet-stream. A request that is sent again within an hour with the same
        `Idempotency-Key` returns the same session.
        """
        return await answer(handler, operations.open_session, model, request)

    return router
