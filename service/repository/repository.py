"""Artefacts on disk → served models: read, checked against their cards, proved, measured."""

import asyncio
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import onnxruntime as ort
import structlog
from pydantic import ValidationError

from models.card import CARD_KEY, ModelCard, SealError, TensorSpec, check_seal
from service.codec.codec import Codec
from service.engine.arena import RESERVED, Arena, row_bytes
from service.engine.batcher import Batcher
from service.engine.runner import Runner
from service.engine.work import Committer
from service.errors import (
    ArtefactRefused,
    ModelNotFound,
    ModelNotLoaded,
    ModelReplaced,
    NoRoomYet,
    RefusedToStart,
    ServiceError,
    ShuttingDown,
)
from service.repository.external_data import WireError, has_external_data
from service.repository.load_check import prove_in_place
from service.settings import Settings

_MOST_BYTES = 2**31 - 1
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "bool": "tensor(bool)",
}

_log = structlog.get_logger()


class Listed(NamedTuple):
    """A version in the repository, and whether it is served."""

    name: str
    version: int
    state: Literal["READY", "UNLOADING", "UNAVAILABLE"]
    reason: str


class ServedModel:
    """One version of a model in service: its card, its arena, its engine and its batcher, and counts of its sessions.

    `promised` counts the rows that its live sessions may hold between their steps, at most `max_sessions`. `retire_at`
    is when its last sessions are ended, where a newer version has taken its place; `retired` that this has been done.
    """

    def __init__(self, card: ModelCard, engine: Runner, batcher: Batcher, codec: Codec, max_sessions: int) -> None:
        self.card, self.engine, self.batcher, self.codec = card, engine, batcher, codec
        self.arena = engine.arena
        self.max_sessions = max_sessions
        self.promised = self.sessions = self.sessions_created = self.sessions_expired = 0
        self.retire_at = math.inf
        self.retired = False

    def __repr__(self) -> str:
        return f"<ServedModel {self.name} {self.card.version}, {self.sessions} sessions>"

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def memory(self) -> int:
        """The bytes of its arena."""
        return row_bytes(self.card.states) * self.arena.slots.count

    def close(self, why: ServiceError) -> None:
        """Refuse all work, and let the arena and the engine go; sessions that are left can only be told so."""
        self.retired = True
        self.batcher.close(why)
        self.engine.close()

    def counts(self) -> dict[str, int]:
        """Return the numbers that metrics show of a model."""
        return {
            "steps": self.batcher.statistics.row_steps,
            "runs": self.batcher.statistics.run_count,
            "rows": self.batcher.statistics.rows,
            "sessions_created": self.sessions_created,
            "sessions_expired": self.sessions_expired,
            "sessions_lost": 0,
            "sessions_active": self.sessions,
            "queue_entries": self.batcher.waiting,
            "slots_free": self.arena.slots.free,
            "state_bytes": row_bytes(self.card.states) * self.arena.slots.leased,
        }

    def last_counts(self) -> dict[str, int]:
        """Return the numbers that are left when it goes: its sessions are lost, and it holds nothing."""
        return self.counts() | {
            "sessions_lost": self.sessions,
            "sessions_active": 0,
            "queue_entries": 0,
            "slots_free": 0,
            "state_bytes": 0,
        }


class Repository:
    """The models of one folder, MODEL/VERSION/model.onnx; the highest version of each is served.

    `models` holds the version of each that new sessions take, `_leaving` those before it that still have sessions.
    `_refused` tells of the files that were found wanting when they had last been changed; `_postponed` of those that
    wait for memory. Models in `_unloaded` stay out until somebody loads them.
    """

    def __init__(self, settings: Settings, committer: Committer, clock: Callable[[], float]) -> None:
        self._settings, self._committer, self._clock = settings, committer, clock
        self.models: dict[str, ServedModel] = {}
        self._leaving: list[ServedModel] = []
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
        models = [
            model for model in (*self.models.values(), *self._leaving) if model.name == name and not model.retired
        ]
        return next((model for model in models if model.card.version == version), None)

    def counts(self) -> list[tuple[ModelCard, dict[str, int]]]:
        """Return the numbers of every version in service, and the last ones of those that were."""
        present = [(model.card, model.counts()) for model in (*self.models.values(), *self._leaving)]
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
        for model in (*self.models.values(), *self._leaving):
            model.close(ShuttingDown())
        self.models.clear()
        self._leaving.clear()

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
            self._leaving.append(model)
            for leaving in self._leaving:
                leaving.retired = leaving.retired or leaving.name == name
            _log.info("model_unloaded", model=name, version=model.card.version, sessions=model.sessions)
            self.retire()

    async def index(self) -> list[Listed]:
        """List the versions that are served, and the newest ones in the folder that are not."""
        files = await asyncio.to_thread(newest_artefacts, self._settings.artifacts)
        listed = [Listed(model.name, model.card.version, "READY", "") for model in self.models.values()]
        listed += [Listed(model.name, model.card.version, "UNLOADING", "replaced") for model in self._leaving]
        for name, (version, path) in files.items():
            if any((one.name, one.version) == (name, version) for one in listed):
                continue
            reason = "refused" if path in self._refused else "no room yet" if path in self._postponed else "not loaded"
            listed.append(Listed(name, version, "UNAVAILABLE", "unloaded" if name in self._unloaded else reason))
        return sorted(listed)

    def retire(self) -> None:
        """Let go of replaced versions that have no session any more, or have had long enough."""
        now = self._clock()
        for model in list(self._leaving):
            model.retired = model.retired or now >= model.retire_at
            if model.batcher.waiting == 0 and (model.retired or model.sessions == 0):
                self._last_counts[model.name, model.card.version] = (model.card, model.last_counts())
                model.close(ModelReplaced(None))
                self._leaving.remove(model)
                _log.info("model_retired", model=model.name, version=model.card.version, sessions=model.sessions)

    def _put_in_service(self, model: ServedModel) -> None:
        before = self.models.get(model.name)
        self.models[model.name] = model
        self._last_counts.pop((model.name, model.card.version), None)
        if before is not None:
            before.retire_at = self._clock() + self._settings.retire_after
            self._leaving.append(before)
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
        free = int(settings.state_memory) - sum(model.memory for model in (*self.models.values(), *self._leaving))
        if slots * row > free:
            raise NoRoomYet(f"{path}: its states need {slots * row} bytes of memory, but {free} are free for now")
        if settings.provider == "cpu":
            prove_in_place(session, card, path)
        engine = Runner(session, card, Arena(card.states, slots, settings.provider))
        costs = engine.measure()
        turn = settings.turn_ms / 1000
        inline = settings.provider == "cpu" and card.streams and costs.of(min(card.max_batch, 64), 1) <= turn
        batcher = Batcher(
            engine,
            costs,
            self._committer,
            round_seconds=turn,
            inline=inline,
            queue_limit=settings.queue_limit,
            deadline=settings.deadline,
            clock=self._clock,
        )
        return ServedModel(card, engine, batcher, Codec(card), max_sessions)


def newest_artefacts(folder: Path) -> dict[str, tuple[int, Path]]:
    """Return model name → (highest version, its file)."""
    found: dict[str, tuple[int, Path]] = {}
    for path in folder.glob("*/*/model.onnx"):
        name, version = path.parts[-3:-1]
        if not re.fullmatch(r"[1-9][0-9]{0,17}", version) or not re.fullmatch(
            r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name
        ):
            continue
        if name not in found or found[name][0] < int(version):
            found[name] = (int(version), path)
    return found


def check_provider(provider: str) -> None:
    """Raise RefusedToStart unless the installed onnxruntime has the provider."""
    if _PROVIDERS[provider] not in ort.get_available_providers():
        raise RefusedToStart(
            f"--provider {provider} needs {_PROVIDERS[provider]}, but the installed onnxruntime {ort.__version__} has "
            f"only {', '.join(ort.get_available_providers())}: install onnxruntime-gpu in its place"
        )


def open_artefact(path: Path, provider: str = "cpu", threads: int = 1) -> tuple[ort.InferenceSession, ModelCard]:
    """Open a model file and check its card against its graph.

    Raises:
        ArtefactRefused: The file is damaged, no artefact, or its graph is not what its card says.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ArtefactRefused(f"{path}: larger than {_MOST_BYTES} bytes, the most that a model file can be")
        data = path.read_bytes()
        check_seal(data)
        if has_external_data(data):
            raise ArtefactRefused(f"{path}: a tensor's values lie outside the file: an artefact holds all of them")
    except OSError as exc:
        raise ArtefactRefused(f"{path} cannot be read: {exc}") from exc
    except (SealError, WireError) as exc:
        raise ArtefactRefused(f"{path}: {exc}") from exc
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(data, options, providers=[_PROVIDERS[provider]])
    except Exception as exc:  # onnxruntime raises a dozen types of its own
        raise ArtefactRefused(f"{path}: onnxruntime cannot load it: {exc}") from exc
    if provider == "cuda" and _PROVIDERS[provider] not in session.get_providers():
        raise RefusedToStart("--provider cuda: onnxruntime has the provider, but no CUDA device could be used")
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ArtefactRefused(f"{path}: expected a model card in the file's metadata, found none")
    try:
        card = ModelCard.model_validate_json(text)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        raise ArtefactRefused(f"{path}: the card's {'.'.join(map(str, error['loc']))}: {error['msg']}") from exc
    disagreement = graph_disagreement(session, card)
    if disagreement is not None:
        raise ArtefactRefused(f"{path}: the card disagrees with the graph: {disagreement}")
    return session, card


def graph_disagreement(session: ort.InferenceSession, card: ModelCard) -> str | None:
    """Return what the card asks for and the graph has not, or None; pairs by name."""

    def tensors(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        return {spec.name: (_TYPES[spec.dtype], (None, None, *spec.shape)) for spec in specs}

    inputs = tensors(card.inputs) | {
        "read_slots": ("tensor(int64)", (None,)),
        "write_slots": ("tensor(int64)", (None,)),
    }
    outputs = tensors(card.outputs)
    if card.ragged:
        inputs["lengths"] = ("tensor(int64)", (None,))
    for state in card.states:
        inputs[f"arena.{state.name}"] = outputs[f"arena_out.{state.name}"] = (_TYPES[state.dtype], (None, *state.shape))
        outputs[f"state.{state.name}"] = (_TYPES[state.dtype], (None, *state.shape))
    for what, expected, nodes in (
        ("input", inputs, session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        actual = {
            node.name: (node.type, tuple(d if isinstance(d, int) else None for d in node.shape)) for node in nodes
        }
        if card.max_batch == 1:  # a graph that runs one row alone may say so
            actual = {name: (dtype, _open_batch(shape)) for name, (dtype, shape) in actual.items()}
        for name, described in expected.items():
            if name not in actual:
                return f"expected an {what} {name}, the graph has {', '.join(sorted(actual))}"
            if actual[name] != described:
                return f"{what} {name}: expected {_shown(described)}, the graph has {_shown(actual[name])}"
        extra = sorted(actual.keys() - expected.keys())
        if extra:
            return f"the graph has an {what} {extra[0]} that the card does not know"
    return None


def _open_batch(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return (None, *shape[1:]) if shape[:1] == (1,) else shape


def _shown(described: tuple[str, tuple[int | None, ...]]) -> str:
    dtype, shape = described
    return f"{dtype} [{', '.join('?' if dim is None else str(dim) for dim in shape)}]"
