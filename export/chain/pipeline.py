"""Chaining from stages to an artefact on disk: read, connect, build the served graph, verify, write."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.candidate import Candidate, write_artefact
from export.cards import UNVERIFIED, installed
from export.chain.errors import BadMapError, NameCollisionError, StageError, UnknownPortError, described
from export.chain.graph import build_chained_graph, state_specs
from export.chain.reference import ChainReference
from export.chain.sources import read_stages
from export.chain.stage import Stage, StageSource
from export.chain.wiring import Maps, Port, Wiring, served_outputs
from export.destination import Destination
from export.options import ExportOptions
from export.verify import TOLERANCE
from models.card import ModelCard

_DEFAULTS = ExportOptions()


def chain_models(
    stages: Sequence[str],
    root: Path,
    name: str,
    version: int,
    options: ExportOptions = _DEFAULTS,
    *,
    maps: Iterable[str] = (),
    steps: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write `root/name/version/model.onnx` for a chain of stages and return its path; or write nothing.

    `stages` are [NAME=]SOURCE: the folder of an artefact, an ONNX file, or MODULE:FUNCTION of torch. `maps` are
    FROM=TO. `steps`: STAGE.INPUT → shape of one step, where neither a stage nor a card says it.

    Raises:
        ExportError: No artefact was written; see `export.chain.errors` and `export.errors`.
    """
    destination = Destination(root, name, version)
    destination.check(force=options.force)
    sources = read_stages(stages, options)
    wiring = _connect(sources, Maps.parse(maps, [source.name for source in sources]), steps or {}, options)
    for finding in findings(wiring):
        options.on_finding(finding)
    options.on_progress("building the served graph")
    graph, card = build_chained_graph(wiring), _card(wiring, destination, options)
    if options.tolerance is None:
        # what a stage in lower precision may be off by itself, the chain may be
        coarsest = max(stage.tolerance for stage in wiring.stages)
        if coarsest > options.allowed:
            options = replace(options, tolerance=coarsest)
    options.on_progress("running the stages one after another")
    return write_artefact(destination, Candidate(graph, card, ChainReference(wiring)), options)


def _connect(
    sources: list[StageSource], maps: Maps, steps: Mapping[str, tuple[int, ...]], options: ExportOptions
) -> Wiring:
    """Make the stages, each after those that feed it, and connect them."""
    given: dict[str, dict[str, tuple[int, ...]]] = {source.name: {} for source in sources}
    for text, shape in steps.items():
        option = f"--step {text}={'x'.join(map(str, shape))}"
        of = max((name for name in given if text.startswith(f"{name}.")), key=len, default="")
        if not of:
            raise BadMapError(option, f"expected STAGE.INPUT=SIZE, of a stage {', '.join(given)}")
        given[of][text[len(of) + 1 :]] = shape
    wiring = Wiring(maps)
    for source in maps.sequence(sources):
        feeding = wiring.feeding(source)
        for name in given[source.name]:
            if name not in source.input_names:
                raise UnknownPortError(f"--step {source.name}.{name}", f"input {name!r}", source.input_names)
        specs = {name: wiring.spec_of(port) for name, port in feeding.items()}
        known = {name: spec for name, spec in specs.items() if spec is not None}
        connected = [name for name, port in feeding.items() if port.stage or Port(source.name, name) in maps.feeds]
        stage = source.make(known, given[source.name], connected)
        if {spec.name for spec in stage.inputs} != set(source.input_names):
            raise StageError(
                stage.name,
                f"of its inputs {', '.join(source.input_names)} only {', '.join(spec.name for spec in stage.inputs)} "
                "would be left: adopt the file first, and chain that artefact",
            )
        wiring.add(stage, feeding)
    wiring.finish()
    _check_state_names(wiring.stages)
    return wiring


def _check_state_names(stages: Sequence[Stage]) -> None:
    owners: dict[str, str] = {}
    for stage in stages:
        for state in stage.states:
            name, owner = f"{stage.name}.{state.name}", f"{state.name!r} of {stage.name}"
            if name in owners:
                settle = f"give one of the two stages another name, such as NAME={stage.name}"
                raise NameCollisionError("state", name, [owners[name], owner], settle)
            owners[name] = owner


def findings(wiring: Wiring) -> list[str]:
    """Return a sentence for each stage, state and connection, and for what keeps rows from being run together."""
    lines = []
    for stage in wiring.stages:
        kind, what = next(iter(stage.made_of.items()))
        states = ", ".join(f"{stage.name}.{state.name} {state.dtype}{list(state.shape)}" for state in stage.states)
        lines.append(f"stage {stage.name}: {kind} {what}, {f'states {states}' if states else 'no state'}")
    for name, spec in wiring.inputs.items():
        targets = [str(target) for target, source in wiring.feeds.items() if source == Port("", name)]
        lines.append(f"input {name} → {', '.join(targets)}: a step is {described(spec)}")
    for target, source in wiring.feeds.items():
        spec_given = wiring.spec_of(source)
        if source.stage and spec_given is not None:
            how = "" if target in wiring.maps.feeds else ", by their name"
            lines.append(f"{source} → {target}: {described(spec_given)}{how}")
    lines += [
        f"output {served.name} ← {wiring.outputs[served.name]}: a step gives {described(served)}"
        for served in served_outputs(wiring)
    ]
    for target, source in wiring.feeds.items():
        taken = next(stage for stage in wiring.stages if stage.name == target.stage).input(target.name)
        if source.stage and taken.vocabulary is not None:
            lines.append(
                f"warning: {target} takes ids below {taken.vocabulary:,}, and {source} is not known to give no others: "
                "a run with others would fail"
            )
    coarse = [f"{stage.name} ({stage.tolerance:g})" for stage in wiring.stages if stage.tolerance > TOLERANCE]
    if coarse:
        lines.append(f"the tolerance is no smaller than that of {', '.join(coarse)}, unless --tolerance sets another")
    single = [stage.name for stage in wiring.stages if stage.max_batch == 1]
    if single:
        lines.append(f"max_batch is 1, because it is that of {', '.join(single)}")
    return lines


def _card(wiring: Wiring, destination: Destination, options: ExportOptions) -> ModelCard:
    """Return the card of a chain, without figures."""
    connections = {str(target): str(source) for target, source in wiring.feeds.items()}
    made_of: dict[str, Any] = {stage.name: stage.made_of for stage in wiring.stages}
    served = {name: str(port) for name, port in wiring.outputs.items()}
    return ModelCard(
        name=destination.name,
        version=destination.version,
        description=options.description,
        cell="chained",
        config={"stages": made_of, "connections": connections, "served": served, "findings": findings(wiring)},
        inputs=tuple(wiring.inputs.values()),
        outputs=served_outputs(wiring),
        states=state_specs(wiring.stages),
        max_batch=min(options.max_batch, *(stage.max_batch for stage in wiring.stages)),
        ragged=False,
        weights_sha256=_weights_sha256(wiring.stages, connections, served),
        parity=UNVERIFIED,
        created_by=installed("onnx", "onnxruntime"),
    )


def _weights_sha256(stages: Sequence[Stage], *connections: Mapping[str, str]) -> str:
    """Return the SHA-256 over the stages' weights, what stages without weights are made of, and the connections."""
    parts = [[stage.name, stage.weights_sha256, stage.made_of.get("sha256")] for stage in stages]
    return hashlib.sha256(json.dumps([parts, *connections], sort_keys=True).encode()).hexdigest()
