"""The plan for serving a foreign model: its states, axes and names, found by reading and running it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto

from export.adopt.behaviour import check_finite, effects, runs_many_steps
from export.adopt.dependencies import Dependencies
from export.adopt.errors import (
    AmbiguousError,
    BadOptionError,
    NotServableError,
    UnsettledStatesError,
)
from export.adopt.findings import findings
from export.adopt.float_twin import scales_over_runs
from export.adopt.foreign_model import ForeignModel, RunFailedError
from export.adopt.layout_search import FoundLayouts, find_layouts
from export.adopt.layouts import candidate_layouts
from export.adopt.options import AdoptOptions
from export.adopt.original import Original, cast, initial_value
from export.adopt.origins import find_vocabularies
from export.adopt.pairing import Pair
from export.adopt.pairs import find_pairs, named_by_rule
from export.adopt.plan import InputPlan, OutputPlan, Plan, StatePlan
from export.adopt.public_names import public_names
from export.adopt.row_mixing import find_mixing
from export.adopt.settling import settle_open_states
from export.adopt.value_axes import RECURRENT
from models.card import StateSpec, TensorSpec

_ROWS = 2
"""Rows of the runs that show whether several steps can be run at once."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, the original it is for, and what was found, a sentence each.

    `one_row` is the finding that says why rows cannot be run together, or empty.
    """

    plan: Plan
    original: Original
    findings: tuple[str, ...]
    one_row: str = ""


def make_plan(
    model: ModelProto, options: AdoptOptions, on_progress: Callable[[str], None] = lambda what: None
) -> Planned:
    """Find out how to serve a foreign model, by its names and shapes and by running it.

    Raises:
        AdoptError: It cannot be served, or can be understood in more than one way.
    """
    on_progress("loading the model")
    foreign = ForeignModel(model)
    unknown = [name for name in (*options.states, *options.constants) if name not in foreign.inputs]
    if unknown:
        raise BadOptionError(unknown[0], f"the model has no such input, only {', '.join(foreign.inputs)}")
    on_progress("pairing states")
    inputs = {name: port for name, port in foreign.inputs.items() if name not in options.constants}
    pairs = find_pairs(inputs, foreign.outputs, options)
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
    constants = {name: _constant(foreign, name, np.asarray(value)) for name, value in options.constants.items()}
    on_progress("finding the batch by running the model")
    vocabularies = find_vocabularies(model)
    original = Original(foreign, {}, pairs, options, constants, vocabularies)
    original, settled = settle_open_states(original)
    found = find_layouts(original, candidate_layouts(foreign, pairs, original.options))
    _refuse_empty(found)
    try:
        found = replace(found, original=check_finite(found.original))
        on_progress("watching what feeding back changes")
        felt = effects(found.original)
        found = _with_rows_apart(found, on_progress)
        apart = options.frame_by_frame or scales_over_runs(model)
        rows = _ROWS if found.batched else 1
        many = None if apart else runs_many_steps(found.original, found.outputs, rows)
    except RunFailedError as exc:
        raise NotServableError(f"the model runs once, but not again on the states it gave: {exc}") from exc
    _refuse_doubtful(found.original, felt)
    plan = _plan(found if many is None else replace(found, outputs=many), native_time=many is not None)
    one_row = "" if plan.batched else f"rows cannot be run together, so max_batch is 1: {found.why_not_batched}"
    return Planned(plan, found.original, (*findings(plan, felt), *settled, *filter(None, [one_row])), one_row)


def _refuse_empty(found: FoundLayouts) -> None:
    """Refuse tensors without values, which a session can neither send nor hold, and which some nodes divide by."""
    original = found.original
    for name, layout in (found.outputs | original.layouts).items():
        if 0 in layout.inner:
            kind = "output" if name in found.outputs else "input"
            timed = [one for one in original.data if original.layouts[one].time is not None]
            remedy = f": give a step's shape by --step {timed[0]}=SIZE, of a size for which it has" if timed else ""
            given = ", ".join(str(original.foreign.inputs[one]) for one in original.data)
            raise NotServableError(
                f"the {kind} {name!r} has no values for one step of {given}: its shape is {layout.inner} without the "
                f"batch{remedy}"
            )


def _with_rows_apart(found: FoundLayouts, on_progress: Callable[[str], None]) -> FoundLayouts:
    """Return the layouts with rows run one at a time where one could change what another gets."""
    if not found.batched:
        return found
    on_progress("running rows of values far apart beside each other")
    mixing = find_mixing(found.original, found.outputs)
    return replace(found, batched=False, why_not_batched=mixing) if mixing else found


def _constant(foreign: ForeignModel, name: str, value: np.ndarray) -> np.ndarray:
    port = foreign.inputs[name]
    sizes = [dim if isinstance(dim, int) else None for dim in port.dims]
    if value.ndim == 0 and all(size in (1, None) for size in sizes):
        value = value.reshape([1] * len(sizes))
    if value.ndim != len(sizes) or any(size not in (None, dim) for size, dim in zip(sizes, value.shape, strict=True)):
        raise BadOptionError(f"--constant {name}", f"a value of shape {value.shape} does not fit {port}")
    held, fits = cast(value, port.dtype)
    if not fits:
        raise BadOptionError(f"--constant {name}", f"the value cannot be held as {port.dtype}")
    return held


def _refuse_doubtful(original: Original, felt: dict[str, float]) -> None:
    """Refuse pairs that names do not give, unless something else shows that they are states.

    It is the start of a recurrent layer or a loop, other pairs are named as it is, or the file runs whole sequences,
    with which it is compared later.
    """
    model, depends = original.foreign.model, Dependencies(original.foreign.model)
    starts = {name for node in model.graph.node for at in _starts(node) for name in depends.of(at)}
    ports = original.foreign.inputs
    runs_sequences = any(original.layouts[name].time_axis in ports[name].free for name in original.data)
    rules = [pair.reason for pair in original.pairs]
    for pair in original.pairs:
        shown_otherwise = runs_sequences or pair.source in starts or named_by_rule(pair) in rules
        if not pair.sure and felt[pair.source] == 0.0:
            shown = "neither their names nor a run show"
        elif pair.alone and pair.source not in depends.of(pair.target):
            shown = f"{pair.target!r} does not depend on the other, so nothing shows"
        elif pair.alone and _is_another_final_state(model, pair):
            shown = f"the layer that starts from {pair.source!r} ends in another value, so nothing shows"
        elif not pair.sure and not shown_otherwise:
            shown = "nothing shows"
        else:
            continue
        raise UnsettledStatesError(
            f"{pair.source!r} and {pair.target!r} have one shape and dtype, but {shown} "
            "that the one is fed back to the other",
            [f"a state {pair.source}={pair.target}", f"{pair.source} is an input"],
            f"--state {pair.source}={pair.target} or --state {pair.source}=",
            {one.source: one.target for one in original.pairs},
        )


def _is_another_final_state(model: ModelProto, pair: Pair) -> bool:
    """Return whether a layer starts from an input, and its final state of that kind is not what the output is made of.

    h and c of an LSTM have one shape.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    waiting, seen, layers = [pair.target], set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in RECURRENT:
            layers.add(name)
        else:
            waiting += [one for one in node.input if one]
    finals = [
        node.output[at - 4] if at - 4 < len(node.output) else ""
        for node in model.graph.node
        if node.op_type in RECURRENT
        for at in (5, 6)
        if at < len(node.input) and node.input[at] == pair.source
    ]
    return bool(finals) and not set(finals) & layers


def _starts(node: NodeProto) -> list[str]:
    """Return what a recurrent layer or a loop starts from."""
    if node.op_type in RECURRENT:
        return list(filter(None, node.input[5:7]))
    return list(filter(None, node.input)) if node.op_type in ("Scan", "Loop") else []


def _plan(found: FoundLayouts, *, native_time: bool) -> Plan:
    original = found.original
    foreign, layouts = original.foreign, original.layouts
    fed = {pair.target for pair in original.pairs}
    sent = [name for name in foreign.outputs if name not in fed] or list(foreign.outputs)
    input_names = public_names(original.data)
    state_names = public_names([pair.source for pair in original.pairs])
    output_names = public_names(sent, taken=input_names.values())
    inputs = []
    for name in original.data:
        overlap, axis = original.overlaps.get(name, (0, 0))
        dtype = foreign.inputs[name].dtype
        vocabulary = original.vocabularies.get(name) if dtype in ("int64", "int32") else None
        spec = TensorSpec(
            name=input_names[name],
            dtype=dtype,
            shape=layouts[name].shape,
            vocabulary=vocabulary,
        )
        inputs.append(InputPlan(name, spec, layouts[name], overlap, axis))
    states = []
    for pair in original.pairs:
        layout = layouts[pair.source]
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
    layout, dtype = original.layouts[pair.source], original.foreign.inputs[pair.source].dtype
    given = original.options.initial.get(pair.source)
    initial: float | tuple[float, ...] = 0.0
    if given is not None:
        row = initial_value(pair.source, given, layout.inner, layout.batch, dtype)
        flat = tuple(float(value) for value in row.reshape(-1))
        initial = flat[0] if len(set(flat)) == 1 else flat
    return StateSpec(name=names[pair.source], dtype=dtype, shape=layout.inner, initial=initial)
