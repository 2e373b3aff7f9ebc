"""The index of the repository, and loading and unloading of models where the operator allows it."""

from typing import Any

import orjson

from service.api.request import Call, Reply, json_reply
from service.codec.json_values import kind, load_json
from service.errors import InvalidInput, ModelControlOff, ModelNotFound, Role
from service.oip.errors import Refused, UnknownModel
from service.repository.repository import Repository
from service.settings import Settings

MAX_BODY = 1 << 20
"""Largest body of a request in bytes."""


class ModelControl:
    """Lists, loads and unloads the models of the repository; no request can give a path, a file or a configuration."""

    def __init__(self, settings: Settings, repository: Repository) -> None:
        self._settings, self._repository = settings, repository
        self.role = Role.ADMIN if settings.model_control else None
        """The role that a key needs to load and unload models; where that is switched off, it is refused to all."""

    async def index(self, call: Call, body: bytes) -> Reply:
        """List every model of the repository, or only those that are ready."""
        only_ready = _fields(body).get("ready", False)
        if type(only_ready) is not bool:
            raise InvalidInput("ready", "true or false", kind(only_ready))
        listed = [
            {"name": known.name, "version": str(known.version), "state": known.state, "reason": known.reason}
            for known in await self._repository.index()
            if known.state == "READY" or not only_ready
        ]
        return json_reply(orjson.dumps(listed))

    async def load(self, call: Call, body: bytes) -> Reply:
        """Put the newest version of a model in service, even if it was unloaded before."""
        self._check_allowed()
        for parameter in _parameters(_fields(body)):
            if parameter == "config":
                raise Refused(parameter, "is not taken: a model's card is its configuration")
            if parameter.startswith("file:"):
                raise Refused(parameter, "is not taken: models come from the folder of artefacts alone")
        await self._repository.load(call.argument)
        return 200, [], b""

    async def unload(self, call: Call, body: bytes) -> Reply:
        """Take a model out of service; its sessions end."""
        self._check_allowed()
        parameters = _parameters(_fields(body))
        dependents = parameters.get("unload_dependents", False)
        if type(dependents) is not bool:
            raise InvalidInput("parameters.unload_dependents", "true or false", kind(dependents))
        try:
            await self._repository.unload(call.argument)
        except ModelNotFound as exc:
            raise UnknownModel(call.argument) from exc
        return 200, [], b""

    def _check_allowed(self) -> None:
        if not self._settings.model_control:
            raise ModelControlOff


def _fields(body: bytes) -> dict[str, Any]:
    """Parse a body that is a JSON object; an empty body means an empty object."""
    fields = load_json(body) if body.strip() else {}
    if type(fields) is not dict:
        raise InvalidInput("body", "an object", kind(fields))
    return fields


def _parameters(fields: dict[str, Any]) -> dict[str, Any]:
    parameters = fields.get("parameters", {})
    if type(parameters) is not dict:
        raise InvalidInput("parameters", "an object", kind(parameters))
    return parameters
