"""States whose inputs have a default value, an initializer of the same name: they start from it."""

from onnx import ModelProto, ValueInfoProto, numpy_helper

from export.adopt.errors import NotServableError
from export.adopt.foreign_model import Port, port_of
from export.adopt.names import (
    PLAIN,
    bare_key,
    is_generic,
    is_state,
    names_nothing,
    names_one_state,
    says_data,
    timeless,
    untimed,
    words,
)
from export.adopt.naming_rules import shared_rules
from export.adopt.options import AdoptOptions
from export.adopt.pair_questions import unsettled
from export.adopt.pairing import fitting
from export.adopt.pairs import find_pairs
from export.figure import Array
from export.graphs import all_graphs

_WEIGHTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "LayerNormalization"), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3)),
    "MatMul": (1,),
    "Gather": (0,),
    "BatchNormalization": (1, 2, 3, 4),
    "PRelu": (1,),
}
"""Operator → inputs that hold its weights."""
_PARAMETERS = frozenset(
    [
        "gain",
        "bias",
        "scale",
        "weight",
        "weights",
        "threshold",
        "eps",
        "epsilon",
        "temperature",
        "lr",
        "sr",
        "constant",
    ],
)
"""Words for what a model is set to, and does not carry from step to step."""
_DEFAULTS_SINCE = 4
"""The IR version from which an initializer among the inputs is a default; before, every weight is listed there."""


def open_default_states(model: ModelProto, options: AdoptOptions) -> tuple[dict[str, Array], list[str]]:
    """Make inputs without a default of those that are states, in place.

    Returns:
        The default values by the inputs' names, and a sentence for each.

    Raises:
        AmbiguousError: It is not clear whether such an input is a state.
    """
    defaults = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {value.name: value for value in model.graph.input}
    if not defaults.keys() & values.keys():
        return {}, []
    outputs = {value.name: port_of(value, "output") for value in model.graph.output}
    ports = {name: port_of(value, "input") for name, value in values.items() if name not in defaults}
    listed = _listed(model, {name: values[name] for name in values if name in defaults})
    likely = _likely(listed, ports, outputs, options, sure=model.ir_version < _DEFAULTS_SINCE)
    if model.ir_version >= _DEFAULTS_SINCE:
        _refuse_unnamed(model, {name: port for name, port in listed.items() if name not in likely}, outputs, options)
    inputs = {name: port for name, port in (ports | likely).items() if name not in options.constants}
    initial, findings = {}, []
    for pair in find_pairs(inputs, outputs, options) if likely else ():
        if pair.source not in likely:
            continue
        initial[pair.source] = numpy_helper.to_array(defaults[pair.source])
        model.graph.initializer.remove(defaults[pair.source])
        _open_axes(values[pair.source], outputs[pair.target])
        findings.append(f"the state {pair.source} starts from the default value that the file gives it")
    return initial, findings


def _listed(model: ModelProto, values: dict[str, ValueInfoProto]) -> dict[str, Port]:
    """Return the inputs with a default; those that cannot be states by their types are left out."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = port_of(value, "input")
        except NotServableError:
            continue
    return found


def _likely(
    listed: dict[str, Port], ports: dict[str, Port], outputs: dict[str, Port], options: AdoptOptions, *, sure: bool
) -> dict[str, Port]:
    """Return those that may be states by their names, or by --state; only by names that agree where `sure` is asked."""
    fits = {
        name: [target for target, out in outputs.items() if fitting(port, out) and not says_data(name, target)]
        for name, port in (ports | listed).items()
    }
    ruled = {
        source
        for _, group in shared_rules((name, target) for name, found in fits.items() for target in found)
        for source in group
    }
    return {
        name: port
        for name, port in listed.items()
        if options.states.get(name, name)
        and (
            name in options.states
            or any(_agree(name, target) for target in fits[name])
            or (not sure and fits[name] and (is_state(name) or name in ruled))
            # of one name and another shape: `find_pairs` refuses it
            or (not sure and any(names_one_state(name, target) for target in outputs))
        )
    }


def _refuse_unnamed(
    model: ModelProto, listed: dict[str, Port], outputs: dict[str, Port], options: AdoptOptions
) -> None:
    """Refuse where an input with a default could be fed from an output, though no name says that it is a state.

    Left at its default, a state would start again at every step, and nothing would show it. The weights of a layer,
    which some exporters list as well, are none.

    Raises:
        UnsettledStatesError: There is one that the user has not settled.
    """
    weights = {
        name
        for graph in all_graphs(model.graph)
        for node in graph.node
        for index, name in enumerate(node.input)
        if index in _WEIGHTS.get(node.op_type, ())
    }
    doubtful = {}
    for name, port in listed.items():
        if name in weights or name in options.states or name in options.constants or not port.dims:
            continue
        if set(words(name)) & (PLAIN | _PARAMETERS):
            continue
        fits = [
            target
            for target, out in sorted(outputs.items(), key=lambda item: is_generic(item[0]))
            if fitting(port, out) and _is_row_of(port, out) and not set(words(target)) & PLAIN
        ]
        if fits:
            doubtful[name] = fits
    for name, fits in doubtful.items():
        raise unsettled(
            listed[name],
            "has a default value, and may be a state that starts from it",
            [outputs[target] for target in fits],
            "keeps its value",
            {one: targets[0] for one, targets in doubtful.items()},
        )


def _is_row_of(source: Port, target: Port) -> bool:
    """Return whether an input's sizes are those of one row of an output, or open as they are."""
    return all(
        one == other or one == 1 or isinstance(one, str) for one, other in zip(source.dims, target.dims, strict=False)
    )


def _agree(source: str, target: str) -> bool:
    keys = (timeless, bare_key, untimed)
    return not names_nothing(source, target) and any(key(source) == key(target) != () for key in keys)


def _open_axes(value: ValueInfoProto, target: Port) -> None:
    """Give an input's axes of size 1 no fixed size where the output that feeds it has none."""
    for dim, out in zip(value.type.tensor_type.shape.dim, target.dims, strict=False):
        if dim.dim_value == 1 and isinstance(out, str):
            dim.Clear()
            if not out.startswith("?:"):
                dim.dim_param = out
