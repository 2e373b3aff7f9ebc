"""The served graph of a chain: the served graphs of its stages, one after another, with the arenas of all."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx
from onnx import GraphProto, ModelProto, helper, inliner

from export.chain.errors import StageError
from export.chain.stage import Stage
from export.chain.wiring import Port, Wiring, served_outputs
from export.graphs import all_graphs, rename_values
from export.lower.builder import GraphBuilder
from export.sentences import foreign_error
from export.transposes import guard_transposes
from models.card import StateSpec

IR_VERSION = 10  # not every onnxruntime in use reads newer ones
_OLDEST_OPSET = 15  # the first in which Shape takes a part of the axes


def state_specs(stages: Sequence[Stage]) -> tuple[StateSpec, ...]:
    """Return the states of all stages, each under its stage's name and its own."""
    return tuple(
        spec.model_copy(update={"name": f"{stage.name}.{spec.name}"}) for stage in stages for spec in stage.states
    )


def build_chained_graph(wiring: Wiring) -> ModelProto:
    """Return the served graph of a chain, without card or checksum.

    Each stage runs all steps of a request before the next stage does. Inputs are (batch, time, *shape), arenas
    (slots, *shape).

    Raises:
        StageError: A stage is of an older opset than another, and onnx cannot convert it.
    """
    graph = GraphBuilder("cellstream")
    for spec in wiring.inputs.values():
        graph.input(spec.name, spec.dtype, ["batch", "time", *spec.shape])
    graph.input("read_slots", "int64", ["batch"])
    graph.input("write_slots", "int64", ["batch"])
    specs = state_specs(wiring.stages)
    for state in specs:
        graph.input(f"arena.{state.name}", state.dtype, ["slots", *state.shape])
    for output in served_outputs(wiring):
        graph.output(output.name, output.dtype, ["batch", "time", *output.shape])
    for state in specs:
        graph.output(f"state.{state.name}", state.dtype, ["batch", *state.shape])
        graph.output(f"arena_out.{state.name}", state.dtype, ["slots", *state.shape])
    if any(stage.ragged for stage in wiring.stages):
        _add_lengths(graph, next(iter(wiring.inputs)))
    built = graph.build()
    models = {stage.name: inliner.inline_local_functions(stage.graph) for stage in wiring.stages}
    opsets = _opsets(models.values())
    prefixes = {stage.name: f"{index}/" for index, stage in enumerate(wiring.stages)}
    for stage in wiring.stages:
        part = _converted(stage.name, models[stage.name], opsets[""])
        rename_values(part.graph, _renamer(stage, wiring, prefixes))
        built.initializer.extend(part.graph.initializer)
        built.sparse_initializer.extend(part.graph.sparse_initializer)
        built.node.extend(part.graph.node)
    for name, port in wiring.outputs.items():
        built.node.append(helper.make_node("Identity", [_value(port, wiring, prefixes)], [name], name=f"output/{name}"))
    served = helper.make_model(
        built,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=IR_VERSION,
        producer_name="cellstream",
    )
    return guard_transposes(served)


def _add_lengths(graph: GraphBuilder, first: str) -> None:
    """Compute the lengths of the chunks, which are not padded: all of their steps."""
    batch = graph.node("Shape", [first], output="chain/batch", start=0, end=1)
    time = graph.node("Shape", [first], output="chain/time", start=1, end=2)
    graph.node("Expand", [time, batch], output="chain/lengths")


def _value(port: Port, wiring: Wiring, prefixes: Mapping[str, str]) -> str:
    """Return the name of a value in the chained graph."""
    if not port.stage:
        return port.name
    stage = next(stage for stage in wiring.stages if stage.name == port.stage)
    return prefixes[port.stage] + stage.values.get(("out", port.name), port.name)


def _renamer(stage: Stage, wiring: Wiring, prefixes: Mapping[str, str]) -> Callable[[str], str]:
    """Return the new name of each value of a stage: its inputs are what feeds them, all else is its own."""
    names = {"": "", "read_slots": "read_slots", "write_slots": "write_slots"}
    if stage.ragged:
        names["lengths"] = "chain/lengths"
    for kind in ("arena", "state", "arena_out"):
        names |= {f"{kind}.{spec.name}": f"{kind}.{stage.name}.{spec.name}" for spec in stage.states}
    for spec in stage.inputs:
        value = stage.values.get(("in", spec.name), spec.name)
        names[value] = _value(wiring.feeds[Port(stage.name, spec.name)], wiring, prefixes)
    prefix = prefixes[stage.name]
    return lambda name: names.get(name, prefix + name)


def _opsets(models: Iterable[ModelProto]) -> dict[str, int]:
    """Return the newest version of each set of operators that any of the models uses."""
    found = {"": _OLDEST_OPSET}
    for model in models:
        for opset in model.opset_import:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            found[domain] = max(found.get(domain, 0), opset.version)
    return found


def _converted(name: str, model: ModelProto, opset: int) -> ModelProto:
    """Return a copy of a stage's model in a newer opset.

    Raises:
        StageError: onnx cannot convert it.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    own = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=opset)
    if own == opset:
        return copy
    try:
        return copy if _is_same(copy.graph, own, opset) else onnx.version_converter.convert_version(copy, opset)
    except Exception as exc:  # the converter raises many types
        raise StageError(
            name,
            f"it is of opset {own}, and onnx cannot convert it to {opset}, which another needs: {foreign_error(exc)}",
        ) from exc


def _is_same(graph: GraphProto, old: int, new: int) -> bool:
    """Return whether the operators in a graph are the same in both opsets."""
    kinds = {node.op_type for part in all_graphs(graph) for node in part.node if node.domain in ("", "ai.onnx")}
    return all(
        onnx.defs.get_schema(kind, old, "").since_version == onnx.defs.get_schema(kind, new, "").since_version
        for kind in kinds
    )
