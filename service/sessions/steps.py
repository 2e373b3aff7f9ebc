"""What clients compute: steps, peeks, predictions; and what they can know of the models.

Each operation goes from the bytes of its request to the bytes of its answer.
"""

from service.api.handler import Call, Reply, json_reply
from service.api.schemas import EngineAnswer, ModelAnswer, ModelList, ModelSummary
from service.codec.codec import whole_number
from service.engine.work import Chunk
from service.errors import SessionBusy
from service.repository.repository import Repository
from service.repository.served_model import ServedModel
from service.sessions.session import Session
from service.sessions.table import SessionTable
from service.settings import Settings

OCTETS = b"application/octet-stream"
"""The content type of raw little-endian tensors, in the card's dtype, row-major (steps, *shape)."""

NUMBER = b"x-step"
"""The header of a raw request that numbers its first step, and of a raw answer that numbers its last one."""
EPOCH = b"x-epoch"


class Operations:
    """The operations that run the engines, over one repository and one table."""

    def __init__(self, settings: Settings, repository: Repository, sessions: SessionTable) -> None:
        self._settings, self._repository, self._sessions = settings, repository, sessions

    async def step(self, call: Call, commit: bool = True) -> Reply:
        """Advance a session by a chunk: find → decode → run → answer."""
        body = await call.body(self._settings.step_body)
        session = self._sessions.find(call.argument, call.tenant)
        if call.headers.get(b"content-type") != OCTETS:
            chunk = self.submit(session, body, commit=commit)
            await chunk.entry.future
            return json_reply(self.answer(session, chunk))
        number, epoch = _from_header(call, NUMBER, 1), _from_header(call, EPOCH, 0)
        chunk = self.submit_raw(session, body, number or 0, epoch, commit=commit)
        await chunk.entry.future
        raw = self.raw_answer(chunk)
        headers = [
            (b"content-type", OCTETS),
            (NUMBER, b"%d" % chunk.last_step),
            (b"x-replayed", b"true" if chunk.replayed else b"false"),
        ]
        return 200, headers, raw

    async def peek(self, call: Call) -> Reply:
        """Answer what a step would give; nothing is kept of it."""
        return await self.step(call, commit=False)

    def submit(self, session: Session, body: bytes, *, commit: bool = True) -> Chunk:
        """Read a JSON step body and queue it; await its entry's future.

        Raises:
            MalformedJson, InvalidInput, SessionBusy, QueueFull: Nothing was queued.
        """
        settings = self._settings
        chunk = session.model.codec.decode_steps(body, settings.step_steps, settings.step_elements)
        return self._queue(session, chunk, commit)

    def submit_raw(
        self, session: Session, body: bytes, number: int = 0, epoch: int | None = None, *, commit: bool = True
    ) -> Chunk:
        """Read a raw tensor (steps, *shape) and queue it, as the step of a number unless that is 0; likewise."""
        settings = self._settings
        chunk = session.model.codec.decode_binary(body, settings.step_steps, settings.step_elements)
        chunk.number, chunk.epoch = number, epoch
        return self._queue(session, chunk, commit)

    def _queue(self, session: Session, chunk: Chunk, commit: bool) -> Chunk:
        if session.behind >= self._settings.session_queue_limit:
            raise SessionBusy(self._settings.session_queue_limit)
        chunk.owner, chunk.commit = session, commit
        session.model.batcher.submit((chunk,))
        return chunk

    def answer(self, session: Session, chunk: Chunk) -> bytes:
        """Return the JSON answer of a chunk that is done, or raise its error."""
        if chunk.error is not None:
            raise chunk.error.with_traceback(None)
        return b'{"outputs":%b,"step":%d,"replayed":%b}' % (
            session.model.codec.encode_steps(chunk),
            chunk.last_step,
            b"true" if chunk.replayed else b"false",
        )

    def raw_answer(self, chunk: Chunk) -> bytes:
        """Return the raw outputs (steps, *shape) of a chunk that is done, or raise its error."""
        if chunk.error is not None:
            raise chunk.error.with_traceback(None)
        return chunk.raw_outputs()

    async def predict(self, call: Call) -> Reply:
        """Run whole sequences from the initial state; nothing is kept."""
        settings = self._settings
        model = self._repository.find(call.argument)
        body = await call.body(settings.predict_body)
        model = self._repository.find(call.argument)  # which may be a newer version, now that the body is here
        codec = model.codec
        limits = settings.predict_steps, settings.predict_elements
        if call.headers.get(b"content-type") == OCTETS:
            chunk = codec.decode_binary(body, *limits)
            await model.batcher.submit((chunk,))
            if chunk.error is not None:
                raise chunk.error.with_traceback(None)
            return 200, [(b"content-type", OCTETS)], chunk.raw_outputs()
        chunks = await codec.decode_sequences(body, *limits)
        await model.batcher.submit(chunks)
        for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error.with_traceback(None)
        return json_reply(b'{"outputs":[%b]}' % b",".join(await codec.encode_all(chunks)))

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
            state_bytes=model.state_bytes,
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


def _from_header(call: Call, name: bytes, least: int) -> int | None:
    """Return the step number or epoch that stands in a header of a raw request, None where there is none."""
    text = call.headers.get(name)
    if text is None:
        return None
    number = int(text) if text.isdigit() and len(text) < 20 else text.decode("latin-1")
    return whole_number(number, name.decode(), least)
