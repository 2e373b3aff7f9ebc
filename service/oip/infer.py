"""The infer operation: from the bytes of a request to the bytes of its answer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import orjson

from service.api.handler import Call, Reply
from service.codec.binary import HEAD_LENGTH, split_head
from service.codec.codec import kind, load_json, outputs_of
from service.engine.work import Chunk
from service.errors import InvalidInput, NotStreamable, SessionGone
from service.oip.compression import compressed, read_body
from service.oip.errors import NoSequence, Refused, StartNeeded, UnknownModel
from service.oip.model_io import Form, Forms, Wanted
from service.oip.parameters import Wish, wanted_outputs
from service.oip.responses import answer_rows, answer_sequence
from service.oip.tensors import Inputs, Limits, read_inputs, read_raw, read_step
from service.repository.repository import Repository
from service.repository.served_model import ServedModel
from service.sessions.fleet import FleetRequest, FleetRows, Fleets
from service.sessions.sequences import Sequences
from service.sessions.table import SessionTable
from service.settings import Settings


class Inference:
    """Advances sequences, many at once where a request names them, and runs whole sequences of stateless models."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        sessions: SessionTable,
        fleets: Fleets,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._repository, self._fleets = settings, repository, fleets
        self._sequences = Sequences(settings, sessions, clock)
        self._forms = Forms()

    async def infer(self, call: Call) -> Reply:
        """Answer one infer request: read → run → answer."""
        name, _, version = call.argument.partition("/")
        model = self._find(name, version)
        form = self._forms.of(model)
        limit = self._settings.predict_body
        if b"content-encoding" in call.headers:
            body = await read_body(call, limit)
        else:
            body = await call.encoded_body(limit)
        length = call.headers.get(HEAD_LENGTH)
        known = form.templates.read(body, length)
        if known is not None:
            chunk = self._sequences.follow(call.tenant, model, *known)
            if chunk is not None:
                await chunk.entry.future
                if chunk.error is None:
                    reply = answer_sequence(form, known[2], known[0].wanted, chunk)
                    return await compressed(reply, call) if b"accept-encoding" in call.headers else reply
                if isinstance(chunk.error, SessionGone):
                    raise StartNeeded(known[0].shown, model.name, chunk.error)
                raise chunk.error.with_traceback(None)
        reply = await self._answer(call, model, form, body, length)
        return await compressed(reply, call) if b"accept-encoding" in call.headers else reply

    async def _answer(self, call: Call, model: ServedModel, form: Form, body: bytes, length: bytes | None) -> Reply:
        """Answer a request of any kind."""
        if length is not None and length.isdigit() and not int(length):
            if form.carries:
                raise NoSequence(model.name)
            return await self._predict(model, read_raw(form, body, self._limits), Wish({}), form.all_binary)
        fields, head, tail = _split(body, length)
        wish = Wish(fields)
        name, _, version = call.argument.partition("/")
        if (wish.start or wish.create) and model is not self._repository.models.get(name):
            raise UnknownModel(name, version)  # it is there only for those who are on it already
        if not wish.name:
            return await self._nameless(call, model, fields, tail, wish)
        if not model.card.streams:
            raise NotStreamable(model.name)
        decode = partial(self._chunk, fields, head, tail, wish)
        taken = await self._sequences.advance(call.tenant, model, version or None, wish, decode)
        return answer_sequence(self._forms.of(taken.model), wish.id, wish.wanted, taken.chunk)

    def _find(self, name: str, version: str) -> ServedModel:
        model = self._repository.models.get(name)
        if model is None:
            raise UnknownModel(name, version or None)
        if version and version != str(model.card.version):
            found = self._repository.find_version(name, int(version)) if len(version) < 20 else None
            if found is None:
                raise UnknownModel(name, version)
            return found
        return model

    @property
    def _limits(self) -> Limits:
        return Limits(self._settings.predict_steps, self._settings.predict_elements)

    def _chunk(self, fields: dict[str, Any], head: bytes, tail: bytes, wish: Wish, model: ServedModel) -> Chunk:
        """Read the steps of one sequence."""
        form = self._forms.of(model)
        wish.wanted = wanted_outputs(form, fields, wish)
        raw = read_step(form, fields, head, tail, wish)
        if raw is not None:
            chunk = Chunk(None, (raw,), 1)
            form.templates.learn(wish, fields, head, tail)
        else:
            limits = Limits(self._settings.step_steps, self._settings.step_elements)
            inputs = read_inputs(form, fields, tail, limits)
            if inputs.sessions is not None:
                raise Refused("sequence_id", "names one sequence, and the input session_id several: give one of them")
            if inputs.rows != 1:
                raise InvalidInput("inputs", "one row, [1, steps, …], as a request advances one sequence", "more")
            chunk = Chunk(None, inputs.raw, inputs.steps)
        # a request that starts a sequence is known by its id, where it has one: its number is 1 in any case
        chunk.number = 0 if wish.start and wish.request else wish.number
        chunk.epoch, chunk.request = wish.epoch, wish.request
        return chunk

    async def _nameless(self, call: Call, model: ServedModel, fields: dict[str, Any], tail: bytes, wish: Wish) -> Reply:
        """Answer a request that names no sequence: a fleet step, or the run of a model that carries no state."""
        form = self._forms.of(model)
        names = _names(fields)
        if form.carries and "session_id" not in names:
            raise NoSequence(model.name)
        wanted = wanted_outputs(form, fields, wish)
        inputs = read_inputs(form, fields, tail, self._limits)
        for parameter, given in (
            ("sequence_start", wish.start),
            ("sequence_end", wish.end),
            ("step", wish.number),
            ("epoch", wish.epoch is not None),
        ):
            if given:
                raise Refused(parameter, "needs a sequence_id")
        if inputs.sessions is not None:
            return await self._fleet(call, model, inputs, wish, wanted)
        if wish.create:
            raise Refused("create", "needs an input session_id")
        return await self._predict(model, inputs, wish, wanted)

    async def _fleet(self, call: Call, model: ServedModel, inputs: Inputs, wish: Wish, wanted: Wanted) -> Reply:
        """Advance many sequences, each row for itself."""
        if not model.card.streams:
            raise NotStreamable(model.name)
        model.codec.needs_one_tensor("inputs")
        assert inputs.sessions is not None
        rows = FleetRows(inputs.sessions, wish.create, inputs.numbers, None)
        result = await self._fleets.run(
            model, FleetRequest(rows, [inputs.steps] * inputs.rows, inputs.raw[0], wish.patience), call.tenant
        )
        notes = {name: orjson.dumps(value).decode() for name, value in result.notes().items()}
        form = self._forms.of(model)
        tensor = result.tensor(model.card.outputs[0], inputs.steps)
        return answer_rows(form, wish.id, wanted, [tensor], {"failed": len(result.errors), **notes})

    async def _predict(self, model: ServedModel, inputs: Inputs, wish: Wish, wanted: Wanted) -> Reply:
        """Run each row as a whole sequence from the initial state; nothing is kept."""
        chunks = [
            Chunk(None, raw, inputs.steps) for raw in zip(*map(partial(_rows, inputs.rows), inputs.raw), strict=True)
        ]
        await model.batcher.submit(chunks, wish.patience)
        for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error.with_traceback(None)
        form = self._forms.of(model)
        tensors = [np.stack([outputs_of(chunk, k) for chunk in chunks]) for k in range(len(form.outputs))]
        return answer_rows(form, wish.id, wanted, tensors, {})


def _split(body: bytes, length: bytes | None) -> tuple[dict[str, Any], bytes, bytes]:
    """Return a body's JSON fields, the bytes that they stand in, and those behind them."""
    if length is not None:
        fields, tail = split_head(body, length)
        return fields, body[: len(body) - len(tail)], tail
    fields = load_json(body)
    if type(fields) is not dict:
        raise InvalidInput("body", "an object", kind(fields))
    return fields, body, b""


def _names(fields: dict[str, Any]) -> list[Any]:
    tensors = fields.get("inputs")
    if type(tensors) is not list:
        return []
    return [tensor.get("name") for tensor in tensors if type(tensor) is dict]


def _rows(rows: int, raw: bytes) -> list[bytes]:
    size = len(raw) // rows
    return [raw[at : at + size] for at in range(0, len(raw), size)]
