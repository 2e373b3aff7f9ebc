"""The models of one folder: loaded, replaced by newer versions, and unloaded."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from models.card import ModelCard
from service.codec.codec import Codec
from service.engine.arena import RESERVED, Arena, row_bytes
from service.engine.batcher import Batcher
from service.engine.runner import Runner
from service.engine.work import Committer
from service.errors import ModelNotFound, ModelNotLoaded, ModelReplaced, NoRoomYet, RefusedToStart, ShuttingDown
from service.repository.artefact import check_provider, newest_artefacts, open_artefact
from service.repository.load_check import check_in_place
from service.repository.served_model import ModelState, ServedModel
from service.settings import Settings

_log = structlog.get_logger()


class Listed(NamedTuple):
    """A version in the repository, and whether it is served."""

    name: str
    version: int
    state: Literal["READY", "UNLOADING", "UNAVAILABLE"]
    reason: str


class Repository:
    """The models of one folder, MODEL/VERSION/model.onnx; the highest version of each is served.

    `models` holds the version of each that is SERVING. `_outgoing` holds those that are REPLACED or RETIRED, each with
    the time at which its last sessions end; they hold memory until they have no session and no work. `_refused` has the
    files that were refused, and when they had been changed; `_postponed` those that wait for memory. `_unloaded` has
    the names that stay out until they are loaded by name. `_last_counts` has the numbers of versions that are CLOSED.
    """

    def __init__(self, settings: Settings, committer: Committer, clock: Callable[[], float]) -> None:
        self._settings, self._committer, self._clock = settings, committer, clock
        self.models: dict[str, ServedModel] = {}
        self._outgoing: dict[ServedModel, float] = {}
        self._share = 0
        self._refused: dict[Path, int] = {}
        self._postponed: set[Path] = set()
        self._last_counts: dict[tuple[str, int], tuple[ModelCard, dict[str, int]]] = {}
        self._unloaded: set[str] = set()
        self._refreshing = asyncio.Lock()

    def find(self, name: str) -> ServedModel:
        """Return the served model of a name.

        Raises:
            ModelNotFound: There is none.
        """
        try:
            return self.models[name]
        except KeyError:
            raise ModelNotFound(name) from None

    def find_version(self, name: str, version: int) -> ServedModel | None:
        """Return one version of a model, if it is in service; a replaced one is as long as it has sessions."""
        models = (model for model in self._held() if not model.retired)
        return next((model for model in models if (model.name, model.card.version) == (name, version)), None)

    def counts(self) -> list[tuple[ModelCard, dict[str, int]]]:
        """Return the numbers of every version in service, and the last ones of those that were."""
        present = [(model.card, model.counts()) for model in self._held()]
        return [*present, *self._last_counts.values()]

    def open(self) -> None:
        """Load every model, or none.

        One model's share of the state memory stays free, so that a newer version can be loaded beside an old one.

        Raises:
            RefusedToStart: The folder holds no artefact, or the provider is not there.
            ArtefactRefused: An artefact is damaged or does not do what its card says.
        """
        files = newest_artefacts(self._settings.artifacts)
        if not files:
            raise RefusedToStart(
                f"expected at least one artefact, {self._settings.artifacts}/MODEL/VERSION/model.onnx, and found none"
            )
        check_provider(self._settings.provider)
        self._share = int(self._settings.state_memory) // (len(files) + 1)
        for name, (version, path) in sorted(files.items()):
            self.models[name] = self._load(name, version, path)

    def close(self) -> None:
        """Refuse all work, and let every model go."""
        for model in self._held():
            model.close(ShuttingDown())
        self.models.clear()
        self._outgoing.clear()

    async def refresh(self) -> None:
        """Load versions that are newer than those in service, beside them; one that is refused stays out."""
        async with self._refreshing:
            try:
                files = await asyncio.to_thread(newest_artefacts, self._settings.artifacts)
            except OSError as exc:  # a folder went while it was looked into; the next look will do
                _log.warning("artifacts_changing", why=str(exc))
                return
            for name, (version, path) in sorted(files.items()):
                served = self.models.get(name)
                if name in self._unloaded or (served is not None and served.card.version >= version):
                    continue
                try:
                    changed = path.stat().st_mtime_ns
                    if self._refused.get(path) == changed:
                        continue
                    self._refused[path] = changed
                    model = await asyncio.to_thread(self._load, name, version, path)
                except NoRoomYet as exc:
                    del self._refused[path]
                    if path not in self._postponed:
                        self._postponed.add(path)
                        _log.warning("model_postponed", model=name, version=version, why=str(exc))
                except (RefusedToStart, OSError) as exc:
                    _log.error("model_refused", model=name, version=version, why=str(exc))
                else:
                    self._put_in_service(model)

    async def load(self, name: str) -> None:
        """Put the newest version of one model in service, also where it had been unloaded or refused.

        Raises:
            ModelNotLoaded: There is none, it is not what its card says, or there is no memory for it.
        """
        async with self._refreshing:
            files = await asyncio.to_thread(newest_artefacts, self._settings.artifacts)
            if name not in files:
                raise ModelNotLoaded(name, "no artefact of that name")
            (version, path), served = files[name], self.models.get(name)
            if served is None or served.card.version < version:
                try:
                    model = await asyncio.to_thread(self._load, name, version, path)
                except NoRoomYet as exc:
                    _log.warning("model_postponed", model=name, version=version, why=str(exc))
                    raise ModelNotLoaded(name, "its states do not fit into the memory that is free", 1) from exc
                except (RefusedToStart, OSError) as exc:
                    _log.error("model_refused", model=name, version=version, why=str(exc))
                    raise ModelNotLoaded(name, "its artefact was refused, and the log says why") from exc
                self._put_in_service(model)
            self._unloaded.discard(name)

    async def unload(self, name: str) -> None:
        """Take a model out of service, all its versions, and keep it out; its sessions end.

        Raises:
            ModelNotFound: It is not in service.
        """
        async with self._refreshing:
            model = self.find(name)
            del self.models[name]
            self._unloaded.add(name)
            self._outgoing[model] = self._clock()
            for outgoing in self._outgoing:
                if outgoing.name == name and not outgoing.retired:
                    outgoing.retire()
            _log.info("model_unloaded", model=name, version=model.card.version, sessions=model.sessions)
            self.retire()

    async def index(self) -> list[Listed]:
        """List the versions that are served, and the newest ones in the folder that are not."""
        files = await asyncio.to_thread(newest_artefacts, self._settings.artifacts)
        listed = [Listed(model.name, model.card.version, "READY", "") for model in self.models.values()]
        listed += [Listed(model.name, model.card.version, "UNLOADING", "replaced") for model in self._outgoing]
        for name, (version, path) in files.items():
            if any((one.name, one.version) == (name, version) for one in listed):
                continue
            reason = "refused" if path in self._refused else "no room yet" if path in self._postponed else "not loaded"
            listed.append(Listed(name, version, "UNAVAILABLE", "unloaded" if name in self._unloaded else reason))
        return sorted(listed)

    def retire(self) -> None:
        """Let go of replaced versions that have no session any more, or have had long enough."""
        now = self._clock()
        for model, end in list(self._outgoing.items()):
            if model.state is ModelState.REPLACED and now >= end:
                model.retire()
            if model.batcher.waiting == 0 and (model.retired or model.sessions == 0):
                self._last_counts[model.name, model.card.version] = (model.card, model.last_counts())
                model.close(ModelReplaced(None))
                del self._outgoing[model]
                _log.info("model_retired", model=model.name, version=model.card.version, sessions=model.sessions)

    def _held(self) -> tuple[ServedModel, ...]:
        """Return every version that holds memory."""
        return (*self.models.values(), *self._outgoing)

    def _put_in_service(self, model: ServedModel) -> None:
        before = self.models.get(model.name)
        self.models[model.name] = model
        self._last_counts.pop((model.name, model.card.version), None)
        if before is not None:
            before.replace()
            self._outgoing[before] = self._clock() + self._settings.retire_after
        _log.info("model_loaded", model=model.name, version=model.card.version)

    def _load(self, name: str, version: int, path: Path) -> ServedModel:
        settings = self._settings
        session, card = open_artefact(path, settings.provider, settings.threads)
        card = card.model_copy(update={"name": name, "version": version})
        row, spare = row_bytes(card.states), 3 * card.max_batch + RESERVED
        slots = min(self._share // max(row, 1), settings.max_sessions + spare)
        max_sessions = slots - spare
        if max_sessions < 1:
            raise RefusedToStart(
                f"{path}: {self._share} bytes of state memory hold {slots} rows of {row} bytes, but one "
                f"session beside {spare} rows for work under way is needed: raise --state-memory"
            )
        free = int(settings.state_memory) - sum(model.memory for model in self._held())
        if slots * row > free:
            raise NoRoomYet(f"{path}: its states need {slots * row} bytes of memory, but {free} are free for now")
        if settings.provider == "cpu":
            check_in_place(session, card, path)
        runner = Runner(session, card, Arena(card.states, slots, settings.provider))
        costs, round_seconds = runner.measure(), settings.turn_ms / 1000
        inline = settings.provider == "cpu" and card.streams and costs.of(min(card.max_batch, 64), 1) <= round_seconds
        batcher = Batcher(
            runner,
            costs,
            self._committer,
            round_seconds=round_seconds,
            inline=inline,
            queue_limit=settings.queue_limit,
            deadline=settings.deadline,
            clock=self._clock,
        )
        return ServedModel(card, runner, batcher, Codec(card), max_sessions)
