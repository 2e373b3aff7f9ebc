"""States whose inputs have a default value, an initializer of the same name: they start from it."""

from onnx import ModelProto, ValueInfoProto, numpy_helper

from export.adopt.errors import AmbiguousError, NotServableError
from export.adopt.foreign_model import Port, port_of
from export.adopt.names import bare_key, is_data, is_state, names_nothing, names_one_state, says_data, timeless, untimed
from export.adopt.naming_rules import shared_rules
from export.adopt.options import AdoptOptions
from export.adopt.pairs import find_pairs, fitting
from export.figure import Array

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
    inputs = {name: port for name, port in (ports | likely).items() if name not in options.constants}
    initial, findings = {}, []
    unnamed = {} if model.ir_version < _DEFAULTS_SINCE else _unnamed(listed, likely, outputs, options)
    pairs = find_pairs(inputs, outputs, options) if likely or unnamed else ()
    _refuse_unnamed(unnamed, {pair.target for pair in pairs}, outputs)
    for pair in pairs:
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


def _unnamed(
    listed: dict[str, Port], likely: dict[str, Port], outputs: dict[str, Port], options: AdoptOptions
) -> dict[str, Port]:
    """Return the inputs with a default that have the shape of one row of some output, though no name says more."""
    return {
        name: port
        for name, port in listed.items()
        if name not in likely
        and name not in options.states
        and name not in options.constants
        and any(_is_row_of(port, output) and not is_data(target) for target, output in outputs.items())
    }


def _is_row_of(port: Port, output: Port) -> bool:
    """Return whether an input has an output's sizes, and one row, or any number of them, where that has any."""
    if port.dtype != output.dtype or len(port.dims) != len(output.dims):
        return False
    both = list(zip(port.dims, output.dims, strict=True))
    opened = [isinstance(out, str) for _, out in both]
    return (any(opened) or 1 in port.dims) and all(
        isinstance(size, str) or size == (1 if is_open else out)
        for (size, out), is_open in zip(both, opened, strict=True)
    )


def _refuse_unnamed(unnamed: dict[str, Port], fed: set[str], outputs: dict[str, Port]) -> None:
    for name, port in unnamed.items():
        targets = [t for t, out in outputs.items() if t not in fed and _is_row_of(port, out) and not is_data(t)]
        if targets:
            raise AmbiguousError(
                f"the input {port} has a default value and the shape of an output that may be fed back to it",
                [f"a state {name}={target}" for target in targets] + [f"{name} always has its default"],
                " or ".join(f"--state {name}={target}" for target in [*targets, ""]),
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
