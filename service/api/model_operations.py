"""Operations on models: what is served, predictions, fleet steps, new sessions."""

from service.api.fleet_bodies import framed_answer, json_answer, read_framed, read_json
from service.api.request import CONTENT_TYPE, OCTETS, Call, Operation, Reply, json_reply, operation
from service.api.schemas import EngineAnswer, ModelAnswer, ModelList, ModelSummary
from service.api.session_bodies import created_reply, creation_key, read_open
from service.codec.binary import HEAD_LENGTH
from service.engine.outputs import raw_outputs
from service.errors import NotStreamable
from service.repository.repository import Repository
from service.repository.served_model import ServedModel
from service.sessions.fleet import Fleet
from service.sessions.lifecycle import Lifecycle, OpenRequest, SessionOptions
from service.sessions.steps import Steps
from service.settings import Settings


class ModelOperations:
    """The operations under /v1/models."""

    def __init__(
        self, settings: Settings, repository: Repository, steps: Steps, fleet: Fleet, lifecycle: Lifecycle
    ) -> None:
        self._settings, self._repository = settings, repository
        self._steps, self._fleet, self._lifecycle = steps, fleet, lifecycle
        limit = settings.predict_body
        self.list = operation("list_models", self._list)
        self.describe = operation("describe_model", self._describe, find=self._find)
        self.predict = operation("predict", self._predict, limit, find=self._find)
        self.fleet = operation("fleet", self._take_fleet, limit, self._fleet_limit, self._find)
        self.open_session = operation("open_session", self._open, limit, self._open_limit, self._find)

    def fast_posts(self) -> dict[str, Operation]:
        """Return the operations that the fast path answers, by the last part of their path."""
        return {"predict": self.predict, "fleet": self.fleet, "sessions": self.open_session}

    def _find(self, call: Call) -> ServedModel:
        return self._repository.find(call.argument)

    async def _list(self, call: Call, body: bytes) -> Reply:
        models = [ModelSummary(**_summary(model, call.tenant)) for model in self._repository.models.values()]
        return json_reply(ModelList(models=models).model_dump_json().encode())

    async def _describe(self, call: Call, body: bytes) -> Reply:
        model = call.model
        batcher = model.batcher
        answer = ModelAnswer(
            **_summary(model, call.tenant),
            card=model.card.model_dump(mode="json"),
            state_bytes=model.state_bytes,
            engine=EngineAnswer(
                provider=model.runner.session.get_providers()[0],
                threads=self._settings.threads,
                runs_on="loop" if batcher.inline else "thread",
                run_us=round(batcher.costs.run * 1e6, 2),
                step_us=round(batcher.costs.step * 1e6, 3),
                row_us=round(batcher.costs.row * 1e6, 3),
                max_batch=batcher.max_rows,
            ),
        )
        return json_reply(answer.model_dump_json().encode())

    async def _predict(self, call: Call, body: bytes) -> Reply:
        """Run whole sequences: JSON, or one raw tensor."""
        model = call.model
        limits = self._settings.predict_steps, self._settings.predict_elements
        if call.headers.get(CONTENT_TYPE) == OCTETS:
            (result,) = await self._steps.predict(call.tenant, model, [model.codec.decode_binary(body, *limits)])
            return 200, [(CONTENT_TYPE, OCTETS)], raw_outputs(result.outputs)
        results = await self._steps.predict(call.tenant, model, await model.codec.decode_sequences(body, *limits))
        encoded = await model.codec.encode_all([result.outputs for result in results])
        return json_reply(b'{"outputs":[%b]}' % b",".join(encoded))

    def _fleet_limit(self, call: Call) -> int:
        if not call.model.card.streams:
            raise NotStreamable(call.model.name)
        return self._settings.predict_body

    async def _take_fleet(self, call: Call, body: bytes) -> Reply:
        """Advance many sessions; JSON or framed, and the answer is of the same type."""
        model, head_length = call.model, call.headers.get(HEAD_LENGTH)
        if head_length is None:
            return json_answer(await self._fleet.take(call.tenant, await read_json(model, body, self._settings)))
        request = read_framed(model, body, head_length, self._settings)
        return framed_answer(request, await self._fleet.take(call.tenant, request))

    def _open_limit(self, call: Call) -> int:
        return self._lifecycle.snapshot_limit(call.model) if _is_raw(call) else self._settings.predict_body

    async def _open(self, call: Call, body: bytes) -> Reply:
        """Open a session as a JSON body asks, or at a raw snapshot; an Idempotency-Key opens one session only."""
        model = call.model
        key = creation_key(call, model.name, body)
        described = await self._lifecycle.opened_before(call.tenant, key) if key is not None else None
        if described is None:
            if _is_raw(call):
                request = OpenRequest(model, SessionOptions(), snapshot=body)
            else:
                request = await read_open(model, body, self._settings)
                if key is not None:  # while a large body was read, the same request may have been answered
                    described = await self._lifecycle.opened_before(call.tenant, key)
            described = described or await self._lifecycle.open(call.tenant, request, key)
        return created_reply(described)


def _is_raw(call: Call) -> bool:
    return call.headers.get(CONTENT_TYPE) == OCTETS


def _summary(model: ServedModel, tenant: str) -> dict[str, object]:
    """Describe a model, with the tenant's own sessions and how many it may have."""
    card = model.card
    return {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "cell": card.cell,
        "sessions": model.sessions_of[tenant],
        "max_sessions": model.quota.most,
    }
