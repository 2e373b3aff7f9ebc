"""What clients can do, each operation from the bytes of its request to the bytes of its answer."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from service.arena import row_bytes
from service.codec import load_json
from service.errors import InvalidInput, ServiceError, SessionBusy
from service.gate import Call, Reply, json_reply
from service.repository import Repository, ServedModel
from service.schemas import EngineAnswer, ModelAnswer, ModelList, ModelSummary, OpenSession, SessionAnswer
from service.sessions import Session, SessionTable
from service.settings import Settings
from service.work import Chunk

OCTETS = b"application/octet-stream"
"""The content type of raw little-endian tensors, in the card's dtype, row-major (steps, *shape)."""

_SMALL_BODY = 64 << 10


class Operations:
    """All operations on models and sessions, over one repository and one table."""

    def __init__(
        self, settings: Settings, repository: Repository, sessions: SessionTable, clock: Callable[[], float]
    ) -> None:
        self._settings, self._repository, self._sessions, self._clock = settings, repository, sessions, clock

    async def step(self, call: Call) -> Reply:
        """Advance a session by a chunk: find → decode → run → answer."""
        body = await call.body(self._settings.step_body)
        session = self._sessions.find(call.argument, call.tenant)
        binary = call.headers.get(b"content-type") == OCTETS
        chunk = self.submit(session, body, binary)
        await chunk.entry.future
        if binary:
            return (
                200,
                [(b"content-type", OCTETS), (b"x-step", b"%d" % chunk.last_step)],
                self.raw_answer(session, chunk),
            )
        return json_reply(self.answer(session, chunk))

    def submit(self, session: Session, body: bytes, binary: bool) -> Chunk:
        """Read a step body, JSON or a raw tensor (steps, *shape), and queue it; await its entry's future.

        Raises:
            MalformedJson, InvalidInput, QueueFull: Nothing was queued.
        """
        model, settings = session.model, self._settings
        decode = model.codec.decode_binary if binary else model.codec.decode_steps
        chunk = decode(body, settings.step_steps, settings.step_elements)
        if session.behind >= settings.session_queue_limit:
            raise SessionBusy(settings.session_queue_limit)
        chunk.owner = session
        model.batcher.submit((chunk,))
        return chunk

    def answer(self, session: Session, chunk: Chunk) -> bytes:
        """Return the JSON answer of a chunk that is done, or raise its error."""
        if chunk.error is not None:
            raise chunk.error.with_traceback(None)
        return b'{"outputs":%b,"step":%d,"replayed":false}' % (session.model.codec.encode_steps(chunk), chunk.last_step)

    def raw_answer(self, session: Session, chunk: Chunk) -> bytes:
        """Return the raw outputs (steps, *shape) of a chunk that is done, or raise its error."""
        if chunk.error is not None:
            raise chunk.error.with_traceback(None)
        return session.model.codec.encode_binary(chunk)

    async def predict(self, call: Call) -> Reply:
        """Run whole sequences from the initial state; nothing is kept."""
        settings = self._settings
        model = self._repository.find(call.argument)
        codec = model.codec
        body = await call.body(settings.predict_body)
        limits = settings.predict_steps, settings.predict_elements
        if call.headers.get(b"content-type") == OCTETS:
            chunk = codec.decode_binary(body, *limits)
            await model.batcher.submit((chunk,))
            if chunk.error is not None:
                raise chunk.error.with_traceback(None)
            return 200, [(b"content-type", OCTETS)], codec.encode_binary(chunk)
        chunks = await codec.decode_sequences(body, *limits)
        await model.batcher.submit(chunks)
        for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error.with_traceback(None)
        return json_reply(b'{"outputs":[%b]}' % b",".join(await codec.encode_all(chunks)))

    async def open_session(self, call: Call) -> Reply:
        """Open a session of a model."""
        model = self._repository.find(call.argument)
        body = await call.body(_SMALL_BODY)
        session = self.new_session(model, call.tenant, body)
        return json_reply(self._describe(session), 201, (b"location", b"/v1/sessions/" + session.id.encode()))

    def new_session(self, model: ServedModel, tenant: str, body: bytes = b"") -> Session:
        """Open a session as a body asks for, or with all defaults.

        Raises:
            InvalidInput, MalformedJson: The body is no OpenSession.
            TableFull: The model has as many sessions as it may have.
        """
        wish = OpenSession()
        if body.strip():
            try:
                wish = OpenSession.model_validate(load_json(body), strict=True)
            except ValidationError as exc:
                raise _invalid(exc) from exc
        limit = self._settings.max_idle_limit
        if wish.idle_limit is not None and wish.idle_limit > limit:
            raise InvalidInput("idle_limit", f"at most {limit:g} seconds", f"{wish.idle_limit:g}")
        return self._sessions.create(tenant, model, wish.idle_limit or self._settings.idle_limit)

    async def describe_session(self, call: Call) -> Reply:
        """Tell a session's step and how long it will stay."""
        return json_reply(self._describe(self._sessions.find(call.argument, call.tenant)))

    async def close_session(self, call: Call) -> Reply:
        """End a session and let its state go."""
        self._sessions.close(self._sessions.find(call.argument, call.tenant))
        return 204, [], b""

    def _describe(self, session: Session) -> bytes:
        left = timedelta(seconds=session.expires() - self._clock())
        return (
            SessionAnswer(
                session_id=session.id,
                model=session.model.name,
                version=session.model.card.version,
                step=session.step,
                durability="memory",
                expires_at=(datetime.now(UTC) + left).isoformat(timespec="milliseconds"),
            )
            .model_dump_json()
            .encode()
        )

    async def list_models(self, call: Call) -> Reply:
        """List the models that are served."""
        models = [ModelSummary(**_summary(model)) for model in self._repository.models.values()]
        return json_reply(ModelList(models=models).model_dump_json().encode())

    async def describe_model(self, call: Call) -> Reply:
        """Show a model's card and how it is run here."""
        model = self._repository.find(call.argument)
        batcher = model.batcher
        answer = ModelAnswer(
            **_summary(model),
            card=model.card.model_dump(mode="json"),
            state_bytes=row_bytes(model.card.states),
            engine=EngineAnswer(
                provider=model.engine.session.get_providers()[0],
                threads=self._settings.threads,
                runs_on="loop" if batcher.inline else "thread",
                run_us=round(batcher.costs.run * 1e6, 2),
                step_us=round(batcher.costs.step * 1e6, 3),
                row_us=round(batcher.costs.row * 1e6, 3),
                max_batch=batcher.max_rows,
            ),
        )
        return json_reply(answer.model_dump_json().encode())

    def find_model(self, name: str) -> ServedModel:
        return self._repository.find(name)


def _summary(model: ServedModel) -> dict[str, object]:
    card = model.card
    return {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "cell": card.cell,
        "sessions": model.sessions,
        "max_sessions": model.max_sessions,
    }


def _invalid(exc: ValidationError) -> ServiceError:
    error = exc.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, error["loc"])) or "body"
    return InvalidInput(where, error["msg"].removeprefix("Input should be "), "another value")
