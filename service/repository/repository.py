"""The models of one folder: loading, replacement by newer versions, and unloading."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from models.card import ModelCard
from service.codec.codec import Codec
from service.engine.arena import RESERVED, Arena
from service.engine.batcher import Batcher
from service.engine.quota import Shares
from service.engine.runner import Runner
from service.engine.work import Committer
from service.errors import (
    ArtefactRefused,
    InsufficientMemory,
    ModelNotFound,
    ModelNotLoaded,
    ModelReplaced,
    RefusedToStart,
    ShuttingDown,
)
from service.repository.artefact import check_provider, find_artefacts, open_artefact
from service.repository.load_check import check_in_place
from service.repository.served_model import ModelState, ServedModel
from service.settings import Settings

_log = structlog.get_logger()


class ListedVersion(NamedTuple):
    """A version of a model in the repository, whether it is served, and why not."""

    name: str
    version: int
    state: Literal["READY", "UNLOADING", "UNAVAILABLE"]
    reason: str


class Repository:
    """The models of one folder, MODEL/VERSION/model.onnx; the highest version of each is served.

    `models` has by name the one version of each model that is SERVING. `_retiring` has the versions that are REPLACED
    or RETIRED, with the time at which their sessions end; a version leaves it when it is CLOSED. `_refused` has the
    modification time of each file that was refused; such a file is loaded again once that differs. `_postponed` has the
    files for which there was not enough memory yet. `_unloaded` has the names of models that only `load` may put in
    service again. `_last_counts` has the counts of versions that are CLOSED, by name and version. `_memory_per_model`
    is the state memory of each model in bytes, set by `open`.
    """

    def __init__(
        self, settings: Settings, committer: Committer, clock: Callable[[], float], shares: Shares | None = None
    ) -> None:
        """Take how the limits of each model are divided among tenants; by default they are not."""
        self._settings, self._committer, self._clock = settings, committer, clock
        self._shares = shares or Shares()
        self.models: dict[str, ServedModel] = {}
        self._retiring: dict[ServedModel, float] = {}
        self._memory_per_model = 0
        self._refused: dict[Path, int] = {}
        self._postponed: set[Path] = set()
        self._last_counts: dict[tuple[str, int], tuple[ModelCard, dict[str, int]]] = {}
        self._unloaded: set[str] = set()
        self._refreshing = asyncio.Lock()

    def find(self, name: str) -> ServedModel:
        """Return the version of a model that is SERVING.

        Raises:
            ModelNotFound: No model of this name is served.
        """
        try:
            return self.models[name]
        except KeyError:
            raise ModelNotFound(name) from None

    def find_version(self, name: str, version: int) -> ServedModel | None:
        """Return a version of a model that is SERVING or REPLACED, None where there is none."""
        models = (model for model in self._in_memory() if not model.retired)
        return next((model for model in models if (model.name, model.card.version) == (name, version)), None)

    def counts(self) -> list[tuple[ModelCard, dict[str, int]]]:
        """Return the card and the counts of every version in memory, and the last counts of those that are closed."""
        present = [(model.card, model.counts()) for model in self._in_memory()]
        return [*present, *self._last_counts.values()]

    def open(self) -> None:
        """Load the newest sound version of every model, or none; log the versions that are refused.

        The state memory is divided by the number of models plus one. What remains is for a newer version of a model,
        which is loaded while the older one is still in memory.

        Raises:
            RefusedToStart: The folder has no artefact, the provider is not available, or the memory is too small.
            ArtefactRefused: All artefacts of a model are damaged or do not match their cards.
        """
        files = find_artefacts(self._settings.artifacts)
        if not files:
            raise RefusedToStart(
                f"expected at least one artefact, {self._settings.artifacts}/MODEL/VERSION/model.onnx, and found none"
            )
        check_provider(self._settings.provider)
        self._memory_per_model = int(self._settings.state_memory) // (len(files) + 1)
        for name, versions in sorted(files.items()):
            self.models[name] = self._load_newest(name, versions)

    def close(self) -> None:
        """Refuse all work, and close every model."""
        for model in self._in_memory():
            model.close(ShuttingDown())
        self.models.clear()
        self._retiring.clear()

    async def refresh(self) -> None:
        """Load versions that are newer than those in service; log those that are refused, or need memory."""
        async with self._refreshing:
            try:
                files = await asyncio.to_thread(find_artefacts, self._settings.artifacts)
            except OSError as exc:  # a folder was removed while it was read; the next call reads it again
                _log.warning("artifacts_changing", why=str(exc))
                return
            for name, versions in sorted(files.items()):
                if name not in self._unloaded:
                    await self._load_newer(name, versions)

    async def load(self, name: str) -> None:
        """Put the newest version of a model in service, even if it was unloaded or refused before.

        Raises:
            ModelNotLoaded: There is no artefact, it is refused, or there is not enough memory for it.
        """
        async with self._refreshing:
            files = await asyncio.to_thread(find_artefacts, self._settings.artifacts)
            if name not in files:
                raise ModelNotLoaded(name, "no artefact of that name")
            (version, path), served = files[name][0], self.models.get(name)
            if served is None or served.card.version < version:
                try:
                    model = await asyncio.to_thread(self._load, name, version, path)
                except InsufficientMemory as exc:
                    _log.warning("model_postponed", model=name, version=version, why=str(exc))
                    raise ModelNotLoaded(name, "its states do not fit into the memory that is free", 1) from exc
                except (RefusedToStart, OSError) as exc:
                    _log.error("model_refused", model=name, version=version, why=str(exc))
                    raise ModelNotLoaded(name, "its artefact was refused, and the log says why") from exc
                self._put_in_service(model)
            self._unloaded.discard(name)

    async def unload(self, name: str) -> None:
        """Take all versions of a model out of service until `load` is called for it; their sessions end.

        Raises:
            ModelNotFound: The model is not in service.
        """
        async with self._refreshing:
            model = self.find(name)
            del self.models[name]
            self._unloaded.add(name)
            self._retiring[model] = self._clock()
            for version in self._retiring:
                if version.name == name and not version.retired:
                    version.retire()
            _log.info("model_unloaded", model=name, version=model.card.version, sessions=model.sessions)
            self.retire()

    async def index(self) -> list[ListedVersion]:
        """List the versions in memory, and the newest version of each model in the folder that is not."""
        files = await asyncio.to_thread(find_artefacts, self._settings.artifacts)
        listed = [ListedVersion(model.name, model.card.version, "READY", "") for model in self.models.values()]
        listed += [ListedVersion(model.name, model.card.version, "UNLOADING", "replaced") for model in self._retiring]
        for name, ((version, path), *_) in files.items():
            if any(known[:2] == (name, version) for known in listed):
                continue
            reason = "refused" if path in self._refused else "no room yet" if path in self._postponed else "not loaded"
            listed.append(ListedVersion(name, version, "UNAVAILABLE", "unloaded" if name in self._unloaded else reason))
        return sorted(listed)

    def retire(self) -> None:
        """End the sessions of replaced versions whose time is over, and close versions without sessions or work."""
        now = self._clock()
        for model, end in list(self._retiring.items()):
            if model.state is ModelState.REPLACED and now >= end:
                model.retire()
            if model.batcher.waiting == 0 and (model.retired or model.sessions == 0):
                self._last_counts[model.name, model.card.version] = (model.card, model.last_counts())
                model.close(ModelReplaced(None))
                del self._retiring[model]
                _log.info("model_retired", model=model.name, version=model.card.version, sessions=model.sessions)

    def _load_newest(self, name: str, versions: list[tuple[int, Path]]) -> ServedModel:
        """Load the first version that is sound; raises what is wrong with the first where none is."""
        first: ArtefactRefused | None = None
        for version, path in versions:
            try:
                return self._load(name, version, path)
            except ArtefactRefused as exc:
                _log.error("model_refused", model=name, version=version, why=str(exc))
                first = first or exc
                with suppress(OSError):
                    self._refused[path] = path.stat().st_mtime_ns
        raise first or RefusedToStart(f"{name}: expected an artefact, found none")

    async def _load_newer(self, name: str, versions: list[tuple[int, Path]]) -> None:
        """Put the first version in service that is sound and newer than the one that is."""
        served = self.models.get(name)
        for version, path in versions:
            if served is not None and served.card.version >= version:
                return
            try:
                modified = path.stat().st_mtime_ns
                if self._refused.get(path) == modified:
                    continue
                self._refused[path] = modified
                model = await asyncio.to_thread(self._load, name, version, path)
            except InsufficientMemory as exc:
                del self._refused[path]
                if path not in self._postponed:
                    self._postponed.add(path)
                    _log.warning("model_postponed", model=name, version=version, why=str(exc))
                return
            except (RefusedToStart, OSError) as exc:
                _log.error("model_refused", model=name, version=version, why=str(exc))
            else:
                del self._refused[path]
                self._put_in_service(model)
                return

    def _in_memory(self) -> tuple[ServedModel, ...]:
        """Return every version that is not CLOSED."""
        return (*self.models.values(), *self._retiring)

    def _put_in_service(self, model: ServedModel) -> None:
        before = self.models.get(model.name)
        self.models[model.name] = model
        self._last_counts.pop((model.name, model.card.version), None)
        if before is not None:
            before.replace()
            self._retiring[before] = self._clock() + self._settings.retire_after
        _log.info("model_loaded", model=model.name, version=model.card.version)

    def _load(self, name: str, version: int, path: Path) -> ServedModel:
        settings = self._settings
        session, card = open_artefact(path, settings.provider, settings.threads)
        card = card.model_copy(update={"name": name, "version": version})
        row, spare = card.state_bytes, 3 * card.max_batch + RESERVED + self._committer.pending_rows
        slots = min(self._memory_per_model // max(row, 1), settings.max_sessions + spare)
        max_sessions = slots - spare
        if max_sessions < 1:
            raise RefusedToStart(
                f"{path}: {self._memory_per_model} bytes of state memory hold {slots} rows of {row} bytes, but one "
                f"session beside {spare} rows for work under way is needed: raise --state-memory"
            )
        free = int(settings.state_memory) - sum(model.memory for model in self._in_memory())
        if slots * row > free:
            raise InsufficientMemory(
                f"{path}: its states need {slots * row} bytes of memory, but {free} are free for now"
            )
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
            shares=self._shares,
            clock=self._clock,
        )
        return ServedModel(card, runner, batcher, Codec(card), max_sessions, self._shares)
