"""Operations on one session, or on a tenant's sessions: requests are decoded, replies encoded."""

from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import parse_qs

from service.api.request import (
    CONTENT_TYPE,
    EPOCH,
    JSON,
    OCTETS,
    REPLAYED,
    STEP,
    Call,
    Operation,
    Reply,
    operation,
)
from service.api.schemas import ExtendSession, ForkSession, RewindSession
from service.api.session_bodies import created_reply, creation_key, described_reply, list_reply, read_body
from service.api.step_bodies import StepBodies
from service.codec.json_values import whole_number
from service.errors import InvalidInput
from service.sessions.lifecycle import Lifecycle, SessionOptions
from service.sessions.steps import StepRequest, StepResult, Steps
from service.sessions.table import SessionTable
from service.settings import Settings

SMALL_BODY = 64 << 10
"""Most bytes of a body without tensors."""
_PAGE, _MAX_PAGE = 100, 1000

_Take = Callable[[str, StepRequest], Awaitable[StepResult]]


class SessionOperations:
    """The operations under /v1/sessions."""

    def __init__(self, settings: Settings, table: SessionTable, steps: Steps, lifecycle: Lifecycle) -> None:
        self._table, self._lifecycle = table, lifecycle
        self._bodies = StepBodies(settings)
        self.step = operation("step", partial(self._take, steps.take), settings.step_body)
        self.peek = operation("peek", partial(self._take, steps.peek), settings.step_body)
        self.describe = operation("describe_session", self._describe)
        self.list = operation("list_sessions", self._list)
        self.extend = operation("extend_session", self._extend, SMALL_BODY)
        self.fork = operation("fork", self._fork, SMALL_BODY)
        self.rewind = operation("rewind", self._rewind, SMALL_BODY)
        self.read_state = operation("read_state", self._read_state)
        self.write_state = operation("write_state", self._write_state, 0, self._snapshot_limit)
        self.close = operation("close_session", self._close)

    def fast_posts(self) -> dict[str, Operation]:
        """Return the operations that the fast path answers, by the last part of their path."""
        return {"steps": self.step, "peek": self.peek, "fork": self.fork, "rewind": self.rewind}

    async def _take(self, take: _Take, call: Call, body: bytes) -> Reply:
        """Advance a session, or look ahead; JSON or a raw tensor, and so is the answer."""
        session_id, tenant, bodies = call.argument, call.tenant, self._bodies
        session = self._table.resident(session_id, tenant) or await self._table.load(session_id, tenant)
        if call.headers.get(CONTENT_TYPE) != OCTETS:
            result = await take(tenant, bodies.read_json(session_id, session.model.codec, body))
            return 200, [(CONTENT_TYPE, JSON)], bodies.write_json(result)
        number, epoch = _number_in(call, STEP, 1) or 0, _number_in(call, EPOCH, 0)
        result = await take(tenant, bodies.read_raw(session_id, session.model.codec, body, number, epoch))
        headers = [
            (CONTENT_TYPE, OCTETS),
            (STEP, b"%d" % result.last_step),
            (REPLAYED, b"true" if result.replayed else b"false"),
        ]
        return 200, headers, bodies.write_raw(result)

    async def _describe(self, call: Call, body: bytes) -> Reply:
        return described_reply(await self._lifecycle.describe(call.tenant, call.argument))

    async def _list(self, call: Call, body: bytes) -> Reply:
        return list_reply(*self._lifecycle.page(call.tenant, *_page(call.query)))

    async def _extend(self, call: Call, body: bytes) -> Reply:
        idle_limit = read_body(ExtendSession, body).idle_limit
        return described_reply(await self._lifecycle.extend(call.tenant, call.argument, idle_limit))

    async def _fork(self, call: Call, body: bytes) -> Reply:
        asked = read_body(ForkSession, body)
        options, key = SessionOptions(asked.idle_limit, asked.keep), creation_key(call, call.argument, body)
        return created_reply(await self._lifecycle.fork(call.tenant, call.argument, options, key))

    async def _rewind(self, call: Call, body: bytes) -> Reply:
        asked = read_body(RewindSession, body)
        return described_reply(await self._lifecycle.rewind(call.tenant, call.argument, asked.requests, asked.epoch))

    async def _read_state(self, call: Call, body: bytes) -> Reply:
        snapshot, step = await self._lifecycle.snapshot(call.tenant, call.argument)
        return 200, [(CONTENT_TYPE, OCTETS), (STEP, b"%d" % step)], snapshot

    def _snapshot_limit(self, call: Call) -> int:
        return self._lifecycle.snapshot_limit(self._table.find(call.argument, call.tenant).model)

    async def _write_state(self, call: Call, body: bytes) -> Reply:
        return described_reply(await self._lifecycle.restore(call.tenant, call.argument, body))

    async def _close(self, call: Call, body: bytes) -> Reply:
        await self._lifecycle.close(call.tenant, call.argument)
        return 204, [], b""


def _number_in(call: Call, header: bytes, least: int) -> int | None:
    """Return the step number or the epoch in a header, None where there is none; raises InvalidInput."""
    text = call.headers.get(header)
    if text is None:
        return None
    number = int(text) if text.isdigit() and len(text) < 20 else text.decode("latin-1")
    return whole_number(number, header.decode(), least)


def _page(query: bytes) -> tuple[int, str | None]:
    """Return the most sessions of a page, and the session that it begins behind; raises InvalidInput."""
    fields = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    for name in fields:
        if name not in ("limit", "after"):
            raise InvalidInput("query", "no parameter but limit and after", "another one")
    text = fields.get("limit", [str(_PAGE)])[-1]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= _MAX_PAGE):
        raise InvalidInput("limit", f"a whole number from 1 to {_MAX_PAGE}", "another value")
    return int(text), fields.get("after", [None])[-1]
