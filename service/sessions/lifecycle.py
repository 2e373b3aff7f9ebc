"""What clients do with whole sessions: open, describe, list, extend, fork, rewind, snapshot, restore, close."""

import asyncio
import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, ValidationError

from service.api.handler import Call, Reply, json_reply
from service.api.schemas import ExtendSession, ForkSession, OpenSession, RewindSession, SessionAnswer, SessionList
from service.codec.codec import load_json
from service.engine.work import Chunk
from service.errors import InvalidInput, ServiceError
from service.repository.repository import Repository
from service.repository.served_model import ServedModel
from service.sessions.replay import Creations
from service.sessions.session import Session
from service.sessions.snapshots import most_bytes, read_snapshot, write_snapshot
from service.sessions.steps import NUMBER, OCTETS
from service.sessions.table import SessionTable
from service.settings import Settings

_SMALL_BODY = 64 << 10
_PAGE, _MOST_PAGE = 100, 1000
_KEY = b"idempotency-key"

_Wish = TypeVar("_Wish", bound=BaseModel)


class Lifecycle:
    """The operations on whole sessions, over one repository and one table."""

    def __init__(
        self, settings: Settings, repository: Repository, sessions: SessionTable, clock: Callable[[], float]
    ) -> None:
        self._settings, self._repository, self._sessions, self._clock = settings, repository, sessions, clock
        self._creations = Creations(clock)
        self._prefills: dict[str, asyncio.Task[None]] = {}

    async def open(self, call: Call) -> Reply:
        """Open a session of a model: at its initial state, behind a history, or at a snapshot."""
        model = self._repository.find(call.argument)
        raw = call.headers.get(b"content-type") == OCTETS
        body = await call.body(self._snapshot_limit(model) if raw else self._settings.predict_body)
        model = self._repository.find(call.argument)  # which may be a newer version, now that the body is here

        def make() -> Session:
            return self._open_raw(model, call.tenant, body) if raw else self._open(model, call.tenant, body)

        key = call.headers.get(_KEY)
        session = self._once(call, model.name, body, make)
        if (prefill := self._prefills.get(session.id)) is not None:
            try:
                await asyncio.shield(prefill)  # whoever asked for it goes, it goes on
            except ServiceError:
                if key is not None:
                    self._creations.forget(call.tenant, model.name, key)
                raise
        return self._created(session)

    def _once(self, call: Call, what: str, body: bytes, make: Callable[[], Session]) -> Session:
        """Return the session that the call's Idempotency-Key has opened, or a new one."""
        key = call.headers.get(_KEY)
        if key is None:
            return make()
        known = self._creations.recall(call.tenant, what, key, body)
        if known is not None:
            return self.find(known, call.tenant)
        session = make()
        self._creations.remember(call.tenant, what, key, body, session.id)
        return session

    def new_session(self, model_name: str, tenant: str) -> Session:
        """Open a session with all defaults.

        Raises:
            ModelNotFound, NotStreamable, TableFull, ShuttingDown: There is none.
        """
        return self._create(self._repository.find(model_name), tenant, ForkSession())

    def model(self, name: str) -> ServedModel:
        """Return a served model; raises ModelNotFound."""
        return self._repository.find(name)

    def find(self, session_id: str, tenant: str) -> Session:
        """Return a live session; raises as the table does."""
        return self._sessions.find(session_id, tenant)

    async def describe(self, call: Call) -> Reply:
        """Tell a session's step and how long it will stay."""
        return self._described(self.find(call.argument, call.tenant))

    async def list_sessions(self, call: Call) -> Reply:
        """List the tenant's own sessions, a page at a time."""
        limit, after = _page(call.query)
        listed, place = self._sessions.page(call.tenant, limit, after)
        answer = SessionList(sessions=[self._answer(session) for session in listed], next=place)
        return json_reply(answer.model_dump_json().encode())

    async def extend(self, call: Call) -> Reply:
        """Give a session another idle limit, from now on."""
        wish = _read(ExtendSession, await call.body(_SMALL_BODY))
        session = self.find(call.argument, call.tenant)
        self._sessions.extend(session, self._idle_limit(wish.idle_limit))
        return self._described(session)

    async def fork(self, call: Call) -> Reply:
        """Open a session at another one's state."""
        body = await call.body(_SMALL_BODY)
        wish = _read(ForkSession, body)
        session = self.find(call.argument, call.tenant)
        limit = session.idle_limit if wish.idle_limit is None else self._idle_limit(wish.idle_limit)
        keep = session.keep if wish.keep is None else wish.keep
        fork = self._once(call, session.id, body, lambda: self._sessions.fork(session, limit, keep))
        session.used = self._clock()
        return self._created(fork)

    async def rewind(self, call: Call) -> Reply:
        """Take a session's last requests back."""
        wish = _read(RewindSession, await call.body(_SMALL_BODY))
        session = self.find(call.argument, call.tenant)
        session.rewind(wish.requests, wish.epoch)
        session.used = self._clock()
        return self._described(session)

    async def read_state(self, call: Call) -> Reply:
        """Give a snapshot of a session's state."""
        session = self.find(call.argument, call.tenant)
        return 200, [(b"content-type", OCTETS), (NUMBER, b"%d" % session.step)], write_snapshot(session)

    async def write_state(self, call: Call) -> Reply:
        """Exchange a session's state for that of a snapshot."""
        limit = self._snapshot_limit(self.find(call.argument, call.tenant).model)
        body = await call.body(limit)
        session = self.find(call.argument, call.tenant)
        session.restore(*read_snapshot(body, session.model))
        session.used = self._clock()
        return self._described(session)

    async def close(self, call: Call) -> Reply:
        """End a session and let its state go."""
        self._sessions.close(self.find(call.argument, call.tenant))
        return 204, [], b""

    def _open(self, model: ServedModel, tenant: str, body: bytes) -> Session:
        """Open a session as a JSON body asks for; where there is a history, begin with it."""
        wish = _read(OpenSession, body)
        if wish.history is not None and wish.state is not None:
            raise InvalidInput("body", "a history or a state", "both")
        if wish.state is not None:
            try:
                snapshot = base64.b64decode(wish.state, validate=True)
            except binascii.Error as exc:
                raise InvalidInput("state", "a snapshot in base64", "other text") from exc
            return self._open_raw(model, tenant, snapshot, wish)
        if wish.history is None:
            return self._create(model, tenant, wish)
        settings = self._settings
        history = model.codec.decode_history(wish.history, body, settings.predict_steps, settings.predict_elements)
        session = self._create(model, tenant, wish)
        prefill = self._prefills[session.id] = asyncio.create_task(self._prefill(session, history))
        prefill.add_done_callback(partial(self._prefilled, session.id))
        return session

    def _open_raw(self, model: ServedModel, tenant: str, snapshot: bytes, wish: ForkSession | None = None) -> Session:
        row, step = read_snapshot(snapshot, model)
        session = self._create(model, tenant, wish or ForkSession())
        session.begin(row, step)
        return session

    async def _prefill(self, session: Session, history: Chunk) -> None:
        """Run what came before; where it cannot be, there is no session."""
        history.owner, history.commit = session, True
        try:
            await session.model.batcher.submit((history,))
            if history.error is not None:
                raise history.error.with_traceback(None)
        except BaseException:
            if session.ended is None:
                self._sessions.close(session)
            raise
        session.forget()

    def _prefilled(self, session_id: str, prefill: asyncio.Task[None]) -> None:
        del self._prefills[session_id]
        if not prefill.cancelled():
            prefill.exception()  # whoever waits is told; there may be nobody

    def _create(self, model: ServedModel, tenant: str, wish: ForkSession) -> Session:
        limit = self._settings.idle_limit if wish.idle_limit is None else self._idle_limit(wish.idle_limit)
        return self._sessions.create(tenant, model, limit, keep=wish.keep or 0)

    def _idle_limit(self, seconds: float) -> float:
        limit = self._settings.max_idle_limit
        if seconds > limit:
            raise InvalidInput("idle_limit", f"at most {limit:g} seconds", f"{seconds:g}")
        return seconds

    def _snapshot_limit(self, model: ServedModel) -> int:
        return most_bytes(model.state_bytes)

    def _created(self, session: Session) -> Reply:
        location = (b"location", b"/v1/sessions/" + session.id.encode())
        return json_reply(self._answer(session).model_dump_json().encode(), 201, location)

    def _described(self, session: Session) -> Reply:
        return json_reply(self._answer(session).model_dump_json().encode())

    def _answer(self, session: Session) -> SessionAnswer:
        left = timedelta(seconds=session.expires() - self._clock())
        return SessionAnswer(
            session_id=session.id,
            model=session.model.name,
            version=session.model.card.version,
            step=session.step,
            epoch=session.epoch,
            keep=session.keep,
            idle_limit=session.idle_limit,
            durability="memory",
            expires_at=(datetime.now(UTC) + left).isoformat(timespec="milliseconds"),
        )


def _read(schema: type[_Wish], body: bytes) -> _Wish:
    """Read a JSON body, for which nothing stands for {}.

    Raises:
        MalformedJson, InvalidInput: It is not what the schema says.
    """
    try:
        return schema.model_validate(load_json(body) if body.strip() else {}, strict=True)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, error["loc"])) or "body"
        raise InvalidInput(where, error["msg"].removeprefix("Input should be "), "another value") from exc


def _page(query: bytes) -> tuple[int, str | None]:
    """Return the limit and the place that a query asks for."""
    fields = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    for name in fields:
        if name not in ("limit", "after"):
            raise InvalidInput("query", "no parameter but limit and after", "another one")
    text = fields.get("limit", [str(_PAGE)])[-1]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= _MOST_PAGE):
        raise InvalidInput("limit", f"a whole number from 1 to {_MOST_PAGE}", "another value")
    return int(text), fields.get("after", [None])[-1]
