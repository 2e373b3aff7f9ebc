"""The bodies of operations on whole sessions."""

import base64
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from service.api.request import IDEMPOTENCY_KEY, Call, Reply, json_reply
from service.api.schemas import OpenSession, SessionAnswer, SessionList
from service.codec.json_values import load_json, load_large_json
from service.errors import InvalidInput
from service.repository.served_model import ServedModel
from service.sessions.lifecycle import CreationKey, OpenRequest, SessionDescription, SessionOptions
from service.settings import Settings

_Body = TypeVar("_Body", bound=BaseModel)
_TEXTS = 1 << 12
"""Most names and other texts of a large body; the history of a model with many inputs has a name for each."""


def read_body(schema: type[_Body], body: bytes) -> _Body:
    """Read a JSON body; an empty one stands for {}.

    Raises:
        MalformedJson, InvalidInput: It is not what the schema says.
    """
    return _validated(schema, load_json(body) if body.strip() else {})


def _validated(schema: type[_Body], fields: object) -> _Body:
    """Return the values of a JSON body; raise InvalidInput where they are not what the schema says."""
    try:
        return schema.model_validate(fields, strict=True)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, error["loc"])) or "body"
        raise InvalidInput(where, error["msg"].removeprefix("Input should be "), "another value") from exc


async def read_open(model: ServedModel, body: bytes, settings: Settings) -> OpenRequest:
    """Read how to open a session: everything has a default; a history and a state exclude each other.

    Raises:
        MalformedJson, InvalidInput: The body is not that, or over a limit.
    """
    fields = await load_large_json(body, settings.predict_elements, max_texts=_TEXTS) if body.strip() else {}
    asked = _validated(OpenSession, fields)
    options = SessionOptions(asked.idle_limit, asked.keep)
    if asked.history is not None and asked.state is not None:
        raise InvalidInput("body", "a history or a state", "both")
    if asked.state is not None:
        try:
            return OpenRequest(model, options, snapshot=base64.b64decode(asked.state, validate=True))
        except ValueError as exc:  # also of characters beyond ASCII
            raise InvalidInput("state", "a snapshot in base64", "other text") from exc
    if asked.history is None:
        return OpenRequest(model, options)
    limits = settings.predict_steps, settings.predict_elements
    return OpenRequest(model, options, history=await model.codec.decode_history(asked.history, body, *limits))


def creation_key(call: Call, what: str, body: bytes) -> CreationKey | None:
    """Return the call's Idempotency-Key for opening a session of `what`, None where it has none."""
    key = call.headers.get(IDEMPOTENCY_KEY)
    return CreationKey(what, key, body) if key is not None else None


def created_reply(described: SessionDescription) -> Reply:
    """Return the reply that gives a new session, and where it is."""
    location = (b"location", b"/v1/sessions/" + described.session_id.encode())
    return json_reply(_answer(described).model_dump_json().encode(), 201, location)


def described_reply(described: SessionDescription) -> Reply:
    """Return the reply that describes a session."""
    return json_reply(_answer(described).model_dump_json().encode())


def list_reply(listed: list[SessionDescription], following: str | None) -> Reply:
    """Return a page of sessions, and the `after` of the next page."""
    answer = SessionList(sessions=[_answer(described) for described in listed], next=following)
    return json_reply(answer.model_dump_json().encode())


def _answer(described: SessionDescription) -> SessionAnswer:
    return SessionAnswer(
        session_id=described.session_id,
        model=described.model,
        version=described.version,
        step=described.step,
        epoch=described.epoch,
        keep=described.keep,
        idle_limit=described.idle_limit,
        durability="memory",
        expires_at=described.expires_at.isoformat(timespec="milliseconds"),
    )
