"""What feeds what in a chain: read from --map, and found by name where one stage gives what a later one takes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from export.chain.errors import (
    BadMapError,
    ChainError,
    CycleError,
    DisconnectedError,
    MisfitError,
    NameCollisionError,
    UnknownPortError,
)
from export.chain.stage import Stage, StageSource
from models.card import TensorSpec

_CHAIN_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
_RESERVED = ("lengths", "read_slots", "write_slots", "finite")
_PREFIXES = ("arena.", "arena_out.", "state.")


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a stage; of the chain itself where `stage` is empty."""

    stage: str
    name: str

    def __str__(self) -> str:
        return f"{self.stage}.{self.name}" if self.stage else self.name


@dataclass(frozen=True, slots=True)
class Maps:
    """What the user says: input of a stage → what feeds it; output of the chain → output of a stage.

    `dropped` are outputs that are not served.
    """

    feeds: dict[Port, Port] = field(default_factory=dict)
    outputs: dict[str, Port] = field(default_factory=dict)
    dropped: frozenset[Port] = frozenset()

    @classmethod
    def parse(cls, texts: Iterable[str], stages: Iterable[str]) -> "Maps":
        """Read FROM=TO: A.y=B.x, NAME=A.x for an input of the chain, A.y=NAME for an output, A.y= for none.

        Raises:
            ChainError: One cannot be read, names no stage, or contradicts another.
        """
        names = tuple(stages)
        feeds: dict[Port, Port] = {}
        outputs: dict[str, Port] = {}
        dropped: set[Port] = set()
        for text in texts:
            option = f"--map {text}"
            left, found, right = text.partition("=")
            if not found or not left:
                raise BadMapError(option, "expected STAGE.OUTPUT=STAGE.INPUT, NAME=STAGE.INPUT or STAGE.OUTPUT=NAME")
            source = _port(option, left, names)
            if not right:
                if not source.stage:
                    raise BadMapError(option, "only a stage's output can be left out: STAGE.OUTPUT=")
                dropped.add(source)
                continue
            target = _port(option, right, names)
            if not target.stage:
                if not source.stage:
                    raise BadMapError(option, "neither of the two is a stage's input or output, STAGE.NAME")
                if target.name in outputs:
                    raise BadMapError(option, f"the chain's output {target.name} is {outputs[target.name]} already")
                outputs[target.name] = source
                continue
            if target in feeds:
                raise BadMapError(option, f"{target} is fed by {feeds[target]} already")
            feeds[target] = source
        return cls(feeds, outputs, frozenset(dropped))

    def sequence(self, stages: Iterable[StageSource]) -> list[StageSource]:
        """Return the stages in a sequence in which each comes after those that feed it.

        Raises:
            CycleError: There is none.
        """
        waiting = list(stages)
        done: list[StageSource] = []
        before = {
            one.name: {s.stage for t, s in self.feeds.items() if t.stage == one.name and s.stage} for one in waiting
        }
        while waiting:
            left = {one.name for one in waiting}
            ready = next((one for one in waiting if not before[one.name] & left), None)
            if ready is None:
                raise CycleError(_cycle({name: before[name] & left for name in left}))
            waiting.remove(ready)
            done.append(ready)
        return done


def _cycle(before: Mapping[str, set[str]]) -> list[str]:
    """Return stages that feed each other, the first of them again at the end."""
    path = [min(before)]
    while path[-1] not in path[:-1]:
        path.append(min(before[path[-1]]))
    return path[path.index(path[-1]) :][::-1]


def _port(option: str, text: str, stages: tuple[str, ...]) -> Port:
    """Read STAGE.NAME, or the name of an input or output of the chain."""
    of = [stage for stage in stages if text.startswith(f"{stage}.") and len(text) > len(stage) + 1]
    if of:
        stage = max(of, key=len)
        return Port(stage, text[len(stage) + 1 :])
    if "." in text:
        raise UnknownPortError(option, f"stage {text.partition('.')[0]!r}", stages)
    if not re.fullmatch(_CHAIN_NAME, text) or text in _RESERVED:
        raise BadMapError(option, f"{text!r} cannot be a name of the chain's: letters, digits, '_' and '-'")
    return Port("", text)


@dataclass(slots=True)
class Wiring:
    """The connections of a chain. Every input of a stage that was added is in `feeds`.

    Stages are added in a sequence in which each comes after those that feed it.
    """

    maps: Maps
    stages: list[Stage] = field(default_factory=list)
    feeds: dict[Port, Port] = field(default_factory=dict)
    inputs: dict[str, TensorSpec] = field(default_factory=dict)
    outputs: dict[str, Port] = field(default_factory=dict)
    _owners: dict[str, Port] = field(default_factory=dict)

    def feeding(self, source: StageSource) -> dict[str, Port]:
        """Return what feeds each input of the next stage.

        Raises:
            ChainError: A --map names an input or output that does not exist, or two stages give what it takes.
        """
        maps, names = self.maps, source.input_names
        for target, giver in maps.feeds.items():
            if target.stage == source.name and target.name not in names:
                raise UnknownPortError(f"--map {giver}={target}", f"input {target.name!r} of {source.name}", names)
        return {name: maps.feeds.get(Port(source.name, name)) or self._by_name(source.name, name) for name in names}

    def spec_of(self, port: Port) -> TensorSpec | None:
        """Return what an output of a stage or an input of the chain is; None for an input that is not known yet.

        Raises:
            UnknownPortError: The stage has no such output.
        """
        if not port.stage:
            return self.inputs.get(port.name)
        stage = next(stage for stage in self.stages if stage.name == port.stage)
        names = [spec.name for spec in stage.outputs]
        if port.name not in names:
            raise UnknownPortError(f"--map {port}", f"output {port.name!r} of {stage.name}", names)
        return stage.output(port.name)

    def add(self, stage: Stage, feeding: Mapping[str, Port]) -> None:
        """Connect one more stage.

        Raises:
            MisfitError: What feeds one of its inputs is of another dtype or shape.
            NameCollisionError: An input would have a name that another has.
        """
        for spec in stage.inputs:
            source, target = feeding[spec.name], Port(stage.name, spec.name)
            given = self.spec_of(source)
            is_named = target in self.maps.feeds
            if source.stage or (given is not None and is_named and self._owners[source.name] in self.maps.feeds):
                assert given is not None
                if (given.dtype, given.shape) != (spec.dtype, spec.shape):
                    raise MisfitError(str(source), given, str(target), spec)
            elif given is not None:
                raise NameCollisionError(
                    "input",
                    source.name,
                    [str(self._owners[source.name]), str(target)],
                    f"name both by --map {source.name}={self._owners[source.name]} --map {source.name}={target} to "
                    f"send them the same, or one of them otherwise by --map NAME={target}",
                )
            if not source.stage:
                self._take_input(source.name, spec, target)
            self.feeds[target] = source
        self.stages.append(stage)

    def finish(self) -> None:
        """Find the outputs of the chain, and check that every stage has to do with the others.

        Raises:
            ChainError: Names collide, an output does not exist, or a stage has nothing to do with the others.
        """
        for name, port in self.maps.outputs.items():
            self.spec_of(port)
            self.outputs[name] = port
        used = {*self.feeds.values(), *self.outputs.values()}
        for port in self.maps.dropped:
            self.spec_of(port)
            if port in self.outputs.values():
                raise BadMapError(f"--map {port}=", "another --map names it as an output of the chain")
        for stage in self.stages:
            for spec in stage.outputs:
                port = Port(stage.name, spec.name)
                if port in used or port in self.maps.dropped:
                    continue
                if spec.name in self.outputs:
                    owners = [str(self.outputs[spec.name]), str(port)]
                    raise NameCollisionError(
                        "output",
                        spec.name,
                        owners,
                        f"name one of them by --map {port}=NAME, or leave it out by --map {port}=",
                    )
                self.outputs[spec.name] = port
        for name, port in [*self._owners.items(), *self.outputs.items()]:
            if name in _RESERVED or name.startswith(_PREFIXES) or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                option = f"--map NAME={port}" if name in self.inputs else f"--map {port}=NAME"
                raise BadMapError(option, f"it is needed, because {name!r} cannot be a name of the chain's")
        for name in self.outputs.keys() & self.inputs.keys():
            owners = [f"the input of {self._owners[name]}", f"the output {self.outputs[name]}"]
            raise NameCollisionError("value", name, owners, f"name the one by --map {self.outputs[name]}=NAME")
        self._check_connected()

    def _check_connected(self) -> None:
        if not self.outputs:
            raise ChainError("every output is left out by --map STAGE.OUTPUT=: the chain would give nothing")
        given = {port.stage for port in (*self.feeds.values(), *self.outputs.values())}
        for stage in self.stages:
            if stage.name not in given:
                raise DisconnectedError(stage.name, f"nothing that the stage {stage.name!r} gives is used or served")
        reached = {self.stages[0].name}
        for _ in self.stages:
            for target, source in self.feeds.items():
                if source.stage and {target.stage, source.stage} & reached:
                    reached |= {target.stage, source.stage}
        for stage in self.stages:
            if stage.name not in reached:
                first = self.stages[0].name
                raise DisconnectedError(
                    first, f"the stages {first!r} and {stage.name!r} have nothing to do with each other"
                )

    def _by_name(self, stage: str, name: str) -> Port:
        """Return the output of this name of an earlier stage, or an input of the chain of this name."""
        givers = [one.name for one in self.stages if name in [spec.name for spec in one.outputs]]
        if len(givers) > 1:
            raise NameCollisionError(
                "source of the input",
                name,
                [f"{giver}.{name}" for giver in givers],
                f"choose one by --map {givers[-1]}.{name}={stage}.{name}",
            )
        return Port(givers[0], name) if givers else Port("", name)

    def _take_input(self, name: str, spec: TensorSpec, target: Port) -> None:
        known = self.inputs.get(name)
        self._owners.setdefault(name, target)
        if known is None:
            self.inputs[name] = spec.model_copy(update={"name": name})
            return
        sizes = [one.vocabulary for one in (known, spec) if one.vocabulary is not None]
        self.inputs[name] = known.model_copy(update={"vocabulary": min(sizes) if sizes else None})


def served_outputs(wiring: Wiring) -> tuple[TensorSpec, ...]:
    """Return the card's description of the chain's outputs."""
    specs = []
    for name, port in wiring.outputs.items():
        spec = wiring.spec_of(port)
        assert spec is not None
        specs.append(spec.model_copy(update={"name": name}))
    return tuple(specs)
