"""From a foreign model to the plan by which it is served: pairs, axes, runs, names."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from export.adopt.behaviour import check_finite, effects, runs_many_steps
from export.adopt.errors import (
    AdoptError,
    AmbiguousError,
    BadWishError,
    GrowingStateError,
    NotServableError,
    OpenStateError,
)
from export.adopt.foreign import Foreign, RunFailedError
from export.adopt.layouts import Candidate, readings
from export.adopt.naming import public_names
from export.adopt.original import Original, cast, initial_value
from export.adopt.pairs import Pair, find_pairs
from export.adopt.plan import InputPlan, OutputPlan, Plan, StatePlan
from export.adopt.probe import Found, settle
from export.adopt.wishes import Wishes
from export.graphs import all_graphs
from models.card import StateSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, the original it is for, and what was found on the way, a sentence each.

    `one_row` is the one that says why rows cannot be run together, or empty.
    """

    plan: Plan
    original: Original
    findings: tuple[str, ...]
    one_row: str = ""


def make_plan(model: ModelProto, wishes: Wishes, on_progress: Callable[[str], None] = lambda what: None) -> Planned:
    """Look through a foreign model and run it until it is known how to serve it.

    Raises:
        AdoptError: It cannot be served, or more than one reading of it is possible.
    """
    on_progress("loading the model")
    foreign = Foreign(model)
    unknown = [name for name in (*wishes.states, *wishes.constants) if name not in foreign.inputs]
    if unknown:
        raise BadWishError(unknown[0], f"the model has no such input, only {', '.join(foreign.inputs)}")
    on_progress("pairing states")
    inputs = {name: port for name, port in foreign.inputs.items() if name not in wishes.constants}
    pairs = find_pairs(inputs, foreign.outputs, wishes)
    scalars = [port for port in inputs.values() if not port.dims and port.name not in {pair.source for pair in pairs}]
    if scalars:
        raise AmbiguousError(
            f"the input {scalars[0]} is one number without a batch axis, so it cannot differ between sequences",
            [f"it may be any {scalars[0].dtype}"],
            f"--constant {scalars[0].name}=VALUE",
        )
    if len(pairs) == len(inputs):
        if not inputs:
            raise NotServableError("the model has no input: there is nothing for clients to send")
        raise NotServableError(
            f"every input of the model would be a state ({', '.join(inputs)}): none is left for clients to send. "
            f"Say which is none by --state {next(iter(inputs))}="
        )
    constants = {name: _constant(foreign, name, np.asarray(value)) for name, value in wishes.constants.items()}
    on_progress("finding the batch by running the model")
    vocabularies = find_vocabularies(model)
    original = Original(foreign, {}, pairs, wishes, constants, vocabularies)
    found = settle(original, _candidates(original))
    try:
        found = replace(found, original=check_finite(found.original))
        on_progress("watching what feeding back changes")
        felt = effects(found.original)
        many = runs_many_steps(found.original, found.outputs) if found.batched else None
    except RunFailedError as exc:
        raise NotServableError(f"the model runs once, but not again on the states it gave: {exc}") from exc
    _refuse_doubtful(pairs, felt)
    plan = _plan(found if many is None else replace(found, outputs=many), native_time=many is not None)
    one_row = "" if plan.batched else f"rows cannot be run together, so max_batch is 1: {found.why_not_batched}"
    return Planned(plan, found.original, (*_findings(plan, felt), *filter(None, [one_row])), one_row)


_TRIED_SIZE = 2


def _candidates(original: Original) -> list[Candidate]:
    """Return every way to read the inputs; of a state whose size is fixed nowhere a run tells whether it grows."""
    try:
        return readings(original.foreign, original.pairs, original.wishes)
    except OpenStateError as exc:
        try:
            settle(original, readings(original.foreign, original.pairs, original.wishes, open_size=_TRIED_SIZE))
        except GrowingStateError:
            raise
        except AdoptError:
            pass  # with that size it cannot be told: the user's may do
        raise exc


def find_vocabularies(model: ModelProto) -> dict[str, int]:
    """Return input → how many ids there are, for inputs that choose rows of a table in the model."""
    tables = {tensor.name: tensor.dims[0] for g in all_graphs(model.graph) for tensor in g.initializer if tensor.dims}
    found: dict[str, int] = {}
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    made_by = {name: node for node in nodes for name in node.output}
    for node in nodes:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type != "Gather" or axis != 0 or node.input[0] not in tables:
            continue
        name = node.input[1]
        while name in made_by and made_by[name].op_type in PASSING:
            name = made_by[name].input[0]
        size = int(tables[node.input[0]])
        found[name] = min(found.get(name, size), size)
    return found


PASSING = ("Cast", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Flatten")


def _constant(foreign: Foreign, name: str, value: np.ndarray) -> np.ndarray:
    port = foreign.inputs[name]
    sizes = [dim if isinstance(dim, int) else None for dim in port.dims]
    if value.ndim == 0 and all(size in (1, None) for size in sizes):
        value = value.reshape([1] * len(sizes))
    if value.ndim != len(sizes) or any(size not in (None, dim) for size, dim in zip(sizes, value.shape, strict=True)):
        raise BadWishError(f"--constant {name}", f"a value of shape {value.shape} does not fit {port}")
    held, fits = cast(value, port.dtype)
    if not fits:
        raise BadWishError(f"--constant {name}", f"the value cannot be held as {port.dtype}")
    return held


def _refuse_doubtful(pairs: tuple[Pair, ...], felt: dict[str, float]) -> None:
    for pair in pairs:
        if not pair.sure and felt[pair.source] == 0.0:
            raise AmbiguousError(
                f"{pair.source!r} and {pair.target!r} have one shape and dtype, but neither their names nor a run "
                "show that the one is fed back to the other",
                [f"a state {pair.source}={pair.target}", f"{pair.source} is an input"],
                f"--state {pair.source}={pair.target} or --state {pair.source}=",
            )


def _plan(found: Found, *, native_time: bool) -> Plan:
    original = found.original
    foreign, reading = original.foreign, original.reading
    fed = {pair.target for pair in original.pairs}
    sent = [name for name in foreign.outputs if name not in fed] or list(foreign.outputs)
    input_names = public_names(original.data)
    state_names = public_names([pair.source for pair in original.pairs])
    output_names = public_names(sent, taken=input_names.values())
    inputs = []
    for name in original.data:
        overlap, place = original.overlaps.get(name, (0, 0))
        dtype = foreign.inputs[name].dtype
        vocabulary = original.vocabularies.get(name) if dtype in ("int64", "int32") else None
        spec = TensorSpec(
            name=input_names[name],
            dtype=dtype,
            shape=reading[name].shape,
            vocabulary=vocabulary,
        )
        inputs.append(InputPlan(name, spec, reading[name], overlap, place))
    states = []
    for pair in original.pairs:
        layout = reading[pair.source]
        states.append(
            StatePlan(pair.source, pair.target, _state_spec(original, pair, state_names), layout, pair.reason)
        )
    outputs = tuple(
        OutputPlan(
            name,
            TensorSpec(name=output_names[name], dtype=foreign.outputs[name].dtype, shape=found.outputs[name].shape),
            found.outputs[name],
        )
        for name in sent
    )
    if native_time and any(layout.time is None for layout in (plan.layout for plan in outputs)):
        native_time = False
    return Plan(
        inputs=tuple(inputs),
        outputs=outputs,
        states=tuple(states),
        constants=original.constants,
        native_time=native_time,
        batched=found.batched,
    )


def _state_spec(original: Original, pair: Pair, names: dict[str, str]) -> StateSpec:
    layout, dtype = original.reading[pair.source], original.foreign.inputs[pair.source].dtype
    given = original.wishes.initial.get(pair.source)
    initial: float | tuple[float, ...] = 0.0
    if given is not None:
        row = initial_value(pair.source, given, layout.inner, layout.batch, dtype)
        flat = tuple(float(value) for value in row.reshape(-1))
        initial = flat[0] if len(set(flat)) == 1 else flat
    return StateSpec(name=names[pair.source], dtype=dtype, shape=layout.inner, initial=initial)


def _findings(plan: Plan, felt: dict[str, float]) -> list[str]:
    """Return what was found, a sentence each."""
    lines = []
    for state in plan.states:
        effect = felt[state.source]
        seen = (
            f"feeding it back changes the outputs by {effect:.2g} of their size"
            if effect
            else "in the runs made here feeding it back changed nothing"
        )
        batch = "no batch axis" if state.layout.batch is None else f"batch on axis {state.layout.batch}"
        lines.append(
            f"state {state.source} ← {state.target}: {state.spec.dtype}{list(state.spec.shape)}, {batch}; "
            f"{state.reason}; {seen}"
        )
    if not plan.states:
        lines.append("no state: the model is served stateless")
    for one in plan.inputs:
        extra = (
            f", preceded by the last {one.overlap} of the step before (state {one.overlap_state})"
            if one.overlap
            else ""
        )
        ids = f", ids below {one.spec.vocabulary}" if one.spec.vocabulary else ""
        lines.append(f"input {one.name}: a step is {one.spec.dtype}{list(one.spec.shape)}{ids}{extra}")
    lines += [f"output {one.name}: a step gives {one.spec.dtype}{list(one.spec.shape)}" for one in plan.outputs]
    lines += [f"constant {name} = {value.tolist()}" for name, value in plan.constants.items()]
    lines.append(
        "the graph runs several steps at once by itself"
        if plan.native_time
        else "the graph runs one step: a Scan carries it over the steps of a request"
    )
    return lines
