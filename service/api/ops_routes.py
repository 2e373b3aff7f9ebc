"""Operations of the service itself: liveness, readiness and metrics."""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.handler import Handler
from service.api.request import Call, OperationOf, Reply, error_reply
from service.api.routing import answer, errors
from service.api.schemas import Health, Status
from service.errors import Role
from service.metrics import Metrics


def ops_router(handler: Handler, metrics: Metrics, status: Callable[[], Status]) -> APIRouter:
    """Return /livez, /readyz and /metrics."""
    router = APIRouter(tags=["operations"])

    @router.get("/livez")
    async def livez() -> Health:
        """Report that the process is running."""
        return Health(status="live")

    @router.get("/readyz", responses={503: {"model": Health}})
    async def readyz(response: Response) -> Health:
        """Report whether the service accepts new work."""
        now = status()
        if now != "ready":
            response.status_code = 503
        return Health(status=now)

    async def exposition(call: Call, body: bytes) -> Reply:
        return 200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], metrics.text()

    show = OperationOf("metrics", exposition, error_reply, role=Role.METRICS)

    @router.get("/metrics", response_class=Response, responses=errors(403))
    async def show_metrics(request: Request) -> Response:
        """Return all metrics in Prometheus' text format.

        It needs an API key where keys are in use, with the role metrics where several tenants have keys.
        """
        return await answer(handler, show, "", request)

    return router
