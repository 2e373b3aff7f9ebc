"""What is rewritten in a foreign model before it is analysed: the same function, in a form that can be served."""

from dataclasses import dataclass, replace

from onnx import ModelProto

from export.adopt.default_states import open_default_states
from export.adopt.layer_check import check_layers
from export.adopt.options import AdoptOptions
from export.adopt.recurrent_layers import make_time_major
from export.adopt.step_counts import compute_step_counts


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model to be analysed and served, the options that go with it, and a sentence for each thing rewritten."""

    model: ModelProto
    options: AdoptOptions
    findings: tuple[str, ...] = ()


def prepare(model: ModelProto, options: AdoptOptions) -> Prepared:
    """Return a copy of a model in which layers are time-major, lengths are counted, and default states are inputs.

    Raises:
        AdoptError: It is not clear whether an input with a default value is a state, or an input or a recurrent layer
            cannot be served.
    """
    check_layers(model)
    found = ModelProto()
    found.CopyFrom(model)
    findings = [*make_time_major(found), *compute_step_counts(found, options)]
    initial, more = open_default_states(found, options)
    defaults = {tensor.name for tensor in found.graph.initializer} & {value.name for value in found.graph.input}
    # an input that keeps its default is not one that clients send
    states = {name: target for name, target in options.states.items() if target or name not in defaults}
    # what the user gives comes first
    options = replace(options, states=states, initial=initial | options.initial)
    return Prepared(found, options, (*findings, *more))
