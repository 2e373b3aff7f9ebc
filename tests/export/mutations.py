"""Changes to ONNX graphs that hide a state, look ahead, fix a size or mix rows: each gives another file that runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from tests.export.judged import TOLERANCE, Subject

_LAYERS = ("LSTM", "GRU", "RNN")
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_LAST = 2**31 - 1


@dataclass(slots=True)
class Draft:
    """A graph that is being changed; `axes`, `pairs` and `lengths` as of a `Subject`."""

    model: ModelProto
    axes: dict[str, int]
    pairs: dict[str, str]
    lengths: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    named: dict[str, int] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=np.random.default_rng)

    @classmethod
    def of(cls, subject: Subject, random: np.random.Generator) -> "Draft":
        """Return a draft of a copy of a subject."""
        model = ModelProto()
        model.CopyFrom(subject.model)
        options = dict(subject.options)
        return cls(
            model, dict(subject.axes), dict(subject.pairs), subject.lengths, options, subject.tolerance, random=random
        )

    def subject(self) -> Subject:
        """Return what has become of it."""
        model, named = self.model, self.named
        return Subject(model, self.axes, self.pairs, self.lengths, self.options, self.tolerance, named=named)

    def pick(self, choices: Any) -> Any:
        """Return one of several, or None where there are none."""
        found = list(choices)
        return found[int(self.random.integers(len(found)))] if found else None

    def chance(self, share: float = 0.5) -> bool:
        """Return true in a share of cases."""
        return bool(self.random.random() < share)

    @property
    def weights(self) -> dict[str, TensorProto]:
        """Return the initializers by name."""
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def inputs(self) -> dict[str, ValueInfoProto]:
        """Return the inputs without a default, by name."""
        return {value.name: value for value in self.model.graph.input if value.name not in self.weights}

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Return the name of a new initializer."""
        name = self.fresh("k")
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def fresh(self, hint: str) -> str:
        """Return a name that nothing has."""
        graph = self.model.graph
        taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(self.weights)
        taken |= {value.name for value in (*graph.input, *graph.output)}
        return next(name for number in range(10_000) if (name := f"{hint}{number}") not in taken)

    def layers(self) -> list[NodeProto]:
        """Return the recurrent layers of the main graph."""
        return [node for node in self.model.graph.node if node.op_type in _LAYERS]

    def nodes(self, *kinds: str) -> list[NodeProto]:
        """Return the nodes of these types."""
        return [node for node in self.model.graph.node if node.op_type in kinds]

    def remove_input(self, name: str) -> None:
        """Take an input away from the graph."""
        for value in [value for value in self.model.graph.input if value.name == name]:
            self.model.graph.input.remove(value)

    def remove_output(self, name: str) -> None:
        """Take an output away from the graph."""
        for value in [value for value in self.model.graph.output if value.name == name]:
            self.model.graph.output.remove(value)

    def values(self, rank: int | None = None) -> dict[str, list[int | str]]:
        """Return the float values of the main graph whose sizes are known, of a rank."""
        inferred = shape_inference.infer_shapes(self.model).graph
        found = {}
        for value in (*inferred.input, *inferred.output, *inferred.value_info):
            kind = value.type.tensor_type
            if kind.elem_type == TensorProto.FLOAT and kind.HasField("shape") and value.name not in self.weights:
                dims = [dim.dim_value or dim.dim_param for dim in kind.shape.dim]
                if rank in (None, len(dims)):
                    found[value.name] = dims
        return found

    def insert(self, name: str, nodes: Callable[[str, str], list[NodeProto]]) -> None:
        """Put nodes, made from the names they read and write, behind a value: all that read it read theirs."""
        graph = self.model.graph
        at = next((index for index, node in enumerate(graph.node) if name in node.output), None)
        new = self.fresh("between")
        if at is None:
            for node in graph.node:
                for index, one in enumerate(node.input):
                    if one == name:
                        node.input[index] = new
            made, position = nodes(name, new), 0
        else:
            node = graph.node[at]
            node.output[list(node.output).index(name)] = new
            made, position = nodes(new, name), at + 1
        self.put(position, made)

    def put(self, position: int, nodes: list[NodeProto]) -> None:
        """Put nodes at a position of the graph."""
        for number, one in enumerate(nodes):
            self.model.graph.node.insert(position + number, one)


Mutation = Callable[[Draft], bool]
"""Changes a draft in place; false where there is nothing to change."""

MUTATIONS: dict[str, Mutation] = {}


def _mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__] = function
    return function


def _shown(draft: Draft) -> list[tuple[NodeProto, int, str]]:
    """Return the layers, indices and names of initial states that are inputs of the graph."""
    return [
        (node, at, node.input[at])
        for node in draft.layers()
        for at in _STATES[node.op_type]
        if at < len(node.input) and node.input[at] in draft.inputs
    ]


def _hidden(draft: Draft) -> list[tuple[NodeProto, int]]:
    """Return the layers and indices of initial states that no input gives."""
    return [
        (node, at)
        for node in draft.layers()
        for at in _STATES[node.op_type]
        if at >= len(node.input) or not node.input[at]
    ]


def _set(names: Any, at: int, name: str) -> None:
    while len(names) <= at:
        names.append("")
    names[at] = name


def _attribute(node: NodeProto, name: str, value: Any) -> None:
    for one in [one for one in node.attribute if one.name == name]:
        node.attribute.remove(one)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def _get(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _sizes(draft: Draft, node: NodeProto) -> tuple[int, int]:
    """Return the directions and the hidden size of a layer."""
    dims = draft.weights[node.input[2]].dims if node.input[2] in draft.weights else [1, 0, 5]
    return int(dims[0]), int(dims[2])


@_mutation
def hide_a_state(draft: Draft) -> bool:
    """Take a state's input and output away; it starts from nothing, zeros, or values in the file."""
    chosen = draft.pick(_shown(draft))
    if chosen is None:
        return False
    node, _, name = chosen
    directions, hidden = _sizes(draft, node)
    start = draft.pick(["", "zeros", "values"])
    values = (
        np.zeros((directions, 1, hidden)) if start == "zeros" else draft.random.normal(0, 0.5, (directions, 1, hidden))
    )
    new = draft.constant(values, np.float32) if start else ""
    for one in draft.model.graph.node:
        for index, read in enumerate(one.input):
            if read == name:
                one.input[index] = new
    draft.remove_input(name)
    if target := draft.pairs.pop(name, ""):
        draft.remove_output(target)
    return True


@_mutation
def hide_the_input_of_a_state(draft: Draft) -> bool:
    """Let a state's final value be seen, but not its initial one."""
    chosen = draft.pick(_shown(draft))
    if chosen is None or sum(chosen[2] in node.input for node in draft.model.graph.node) > 1:
        return False
    node, at, name = chosen
    node.input[at] = ""
    draft.remove_input(name)
    draft.pairs.pop(name, None)
    return True


@_mutation
def hide_the_output_of_a_state(draft: Draft) -> bool:
    """Let a state's initial value be given, but its final one not be seen."""
    source = draft.pick(draft.pairs)
    if source is None or len(draft.model.graph.output) < 2:
        return False
    target = draft.pairs.pop(source)
    draft.remove_output(target)
    if not draft.axes:
        # of a single step nothing else could tell that the input is no state
        _rename(draft, source, "conditioning")
        _rename(draft, target, draft.fresh("v"))
    return True


@_mutation
def expose_a_state(draft: Draft) -> bool:
    """Make the initial state of a layer an input, and its final state an output, or one of them alone."""
    chosen = draft.pick(_hidden(draft))
    if chosen is None:
        return False
    node, at = chosen
    directions, hidden = _sizes(draft, node)
    number = len(draft.pairs)
    letter = "h" if at == 5 else "c"
    source, target = draft.pick(
        [
            (f"{letter}{number}", f"{letter}n{number}"),
            (draft.fresh("in"), draft.fresh("out")),
            (f"{letter}_prev", f"{letter}_next"),
        ]
    )
    if {source, target} & {name for one in draft.model.graph.node for name in (*one.input, *one.output)}:
        return False
    dims: list[int | str] = [directions, draft.pick(["n", "batch", 1, "rows"]), hidden]
    what = draft.pick(["both", "both", "input", "output"])
    if what != "output":
        _set(node.input, at, source)
        draft.model.graph.input.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, dims))
    if what != "input":
        to = at - 4
        if to < len(node.output) and node.output[to]:
            if any(value.name == node.output[to] for value in draft.model.graph.output):
                return False
            target = node.output[to]
        else:
            _set(node.output, to, target)
        draft.model.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, dims))
    if what == "both":
        draft.pairs[source] = target
    return True


@_mutation
def start_by_the_batch_size(draft: Draft) -> bool:
    """Start a layer from zeros or ones of a shape that is computed from the input's."""
    chosen = draft.pick(_hidden(draft))
    if chosen is None:
        return False
    node, at = chosen
    if _get(node, "layout", 0):
        return False
    directions, hidden = _sizes(draft, node)
    index = list(draft.model.graph.node).index(node)
    shape, sizes, start = draft.fresh("shape"), draft.fresh("sizes"), draft.fresh("start")
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [float(draft.pick([0.0, 0.0, 0.3]))])
    last = (
        helper.make_node("ConstantOfShape", [sizes], [start], value=value)
        if draft.chance()
        else helper.make_node(
            "Expand", [draft.constant(draft.random.normal(0, 0.5, (directions, 1, hidden)), np.float32), sizes], [start]
        )
    )
    made = [
        helper.make_node("Shape", [node.input[0]], [shape]),
        helper.make_node("Gather", [shape, draft.constant([1])], [shape + "_n"], axis=0),
        helper.make_node(
            "Concat", [draft.constant([directions]), shape + "_n", draft.constant([hidden])], [sizes], axis=0
        ),
        last,
    ]
    _set(node.input, at, start)
    draft.put(index, made)
    return True


@_mutation
def compute_a_start(draft: Draft) -> bool:
    """Change a given initial state before the layer reads it."""
    chosen = draft.pick(_shown(draft))
    if chosen is None:
        return False
    operator = draft.pick(["Tanh", "Neg", "Identity", "Relu"])
    draft.insert(chosen[2], lambda read, written: [helper.make_node(operator, [read], [written])])
    return True


@_mutation
def change_a_final_state(draft: Draft) -> bool:
    """Change a state behind the layer that gives it."""
    source = draft.pick(draft.pairs)
    if source is None:
        return False
    operator = draft.pick(["Tanh", "Neg", "Identity", "Relu"])
    draft.insert(draft.pairs[source], lambda read, written: [helper.make_node(operator, [read], [written])])
    return True


@_mutation
def exchange_two_states(draft: Draft) -> bool:
    """Let h start from what is called c, and c from what is called h."""
    node = draft.pick([n for n in draft.nodes("LSTM") if len(n.input) > 6 and n.input[5] and n.input[6]])
    if node is None:
        return False
    node.input[5], node.input[6] = node.input[6], node.input[5]
    return True


@_mutation
def exchange_two_final_states(draft: Draft) -> bool:
    """Give out c under the name of h."""
    node = draft.pick([n for n in draft.nodes("LSTM") if len(n.output) > 2 and n.output[1] and n.output[2]])
    if node is None:
        return False
    node.output[1], node.output[2] = node.output[2], node.output[1]
    return True


@_mutation
def share_a_state(draft: Draft) -> bool:
    """Let two layers start from one input, though only one of them gives it out."""
    chosen = draft.pick(_shown(draft))
    if chosen is None:
        return False
    node, _, name = chosen
    other = draft.pick(
        [(n, at) for n, at in _hidden(draft) if _sizes(draft, n) == _sizes(draft, node)]
        or [(n, at) for n, at, held in _shown(draft) if held != name and _sizes(draft, n) == _sizes(draft, node)]
    )
    if other is None:
        return False
    before = other[0].input[other[1]] if other[1] < len(other[0].input) else ""
    _set(other[0].input, other[1], name)
    if before and not any(before in one.input for one in draft.model.graph.node):
        draft.remove_input(before)
        draft.pairs.pop(before, None)
    return True


@_mutation
def give_a_default(draft: Draft) -> bool:
    """Give an input that is a state a default value."""
    source = draft.pick([name for name in draft.pairs if name in draft.inputs])
    if source is None or draft.model.ir_version < 4:
        return False
    kind = draft.inputs[source].type.tensor_type
    dims = [dim.dim_value or 1 for dim in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT:
        return False
    values = np.zeros(dims) if draft.chance(0.3) else draft.random.normal(0, 0.5, dims)
    draft.model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), source))
    return True


@_mutation
def rename_states(draft: Draft) -> bool:
    """Give states names that say nothing, or that say something else."""
    if not draft.pairs:
        return False
    style = draft.pick(["numbers", "past", "plain", "layers"])
    for number, (source, target) in enumerate(list(draft.pairs.items())):
        new = {
            "numbers": (f"{17 + number}", f"{140 + 3 * number}"),
            "past": (f"past.{number}", f"present.{number}"),
            "plain": (f"alpha{number}", f"beta{number}"),
            "layers": (f"onnx::LSTM_{number + 3}", f"{90 - number}"),
        }[style]
        if target in {one.name for one in draft.model.graph.input}:
            return False
        _rename(draft, source, new[0])
        _rename(draft, target, new[1])
        del draft.pairs[source]
        draft.pairs[new[0]] = new[1]
    return True


def _rename(draft: Draft, before: str, after: str) -> None:
    graph = draft.model.graph
    for names in (names for node in graph.node for names in (node.input, node.output)):
        for index, name in enumerate(names):
            if name == before:
                names[index] = after
    for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        if one.name == before:
            one.name = after


@_mutation
def shuffle_inputs_and_outputs(draft: Draft) -> bool:
    """List inputs and outputs in another sequence."""
    for values in (draft.model.graph.input, draft.model.graph.output):
        copies = [ValueInfoProto.FromString(one.SerializeToString()) for one in values]
        del values[:]
        values.extend(copies[int(index)] for index in draft.random.permutation(len(copies)))
    return len(draft.model.graph.input) + len(draft.model.graph.output) > 2


@_mutation
def turn_a_layer(draft: Draft) -> bool:
    """Let a layer run backwards."""
    node = draft.pick([n for n in draft.layers() if _sizes(draft, n)[0] == 1])
    if node is None:
        return False
    _attribute(node, "direction", draft.pick(["reverse", "reverse", "forward"]))
    return True


@_mutation
def let_a_layer_run_both_ways(draft: Draft) -> bool:
    """Make a layer bidirectional, its two outputs added; its states are hidden."""
    node = draft.pick([n for n in draft.layers() if _sizes(draft, n)[0] == 1 and n.input[1] in draft.weights])
    if node is None or not node.output[0] or _get(node, "layout", 0) or _get(node, "activations", None):
        return False
    if any(name for name in (*node.input[5:7], *node.output[1:])):
        return False
    for at in range(1, min(len(node.input), 4)):
        if node.input[at]:
            held = numpy_helper.to_array(draft.weights[node.input[at]])
            node.input[at] = draft.constant(np.concatenate([held, held[:, ::-1]]), np.float32)
    _attribute(node, "direction", "bidirectional")
    axis = draft.constant([1])
    draft.insert(
        node.output[0],
        lambda read, written: [helper.make_node("ReduceSum", [read, axis], [written], keepdims=1)],
    )
    return int(draft.model.opset_import[0].version) >= 13


@_mutation
def shift_a_pad(draft: Draft) -> bool:
    """Move padding of a convolution or a Pad from one side to the other, or change how much there is."""
    node = draft.pick(draft.nodes("Conv", "Pad", "MaxPool", "AveragePool"))
    if node is None:
        return False
    if node.op_type == "Pad":
        if len(node.input) < 2 or node.input[1] not in _constants(draft):
            return False
        pads = _constants(draft)[node.input[1]].tolist()
    else:
        pads = list(_get(node, "pads", [])) or [0, 0]
    half = len(pads) // 2
    at = int(draft.random.integers(half))
    moved = int(draft.random.integers(-2, 4))
    if draft.chance(0.7):
        pads[at], pads[at + half] = pads[at] - moved, pads[at + half] + moved
    else:
        pads[at + half * int(draft.random.integers(2))] += moved
    if node.op_type != "Pad":
        if min(pads) < 0:
            return False
        _attribute(node, "pads", pads)
    else:
        node.input[1] = draft.constant(pads)
    return moved != 0


def _constants(draft: Draft) -> dict[str, Any]:
    held = {name: numpy_helper.to_array(tensor) for name, tensor in draft.weights.items()}
    for node in draft.nodes("Constant"):
        if node.attribute[0].name == "value":
            held[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return held


@_mutation
def pad_in_another_mode(draft: Draft) -> bool:
    """Pad by the edge, by reflection, or by another value."""
    node = draft.pick(draft.nodes("Pad"))
    if node is None or draft.model.opset_import[0].version < 11:
        return False
    if draft.chance():
        _attribute(node, "mode", draft.pick(["edge", "reflect"]))
    else:
        _set(node.input, 2, draft.constant(draft.random.normal(), np.float32))
    return True


@_mutation
def change_a_convolution(draft: Draft) -> bool:
    """Change the dilation, the stride or the automatic padding of a convolution."""
    node = draft.pick(draft.nodes("Conv"))
    if node is None:
        return False
    spatial = len(_get(node, "pads", [0, 0])) // 2
    what = draft.pick(["dilations", "strides", "auto_pad"])
    if what == "auto_pad":
        _attribute(node, "pads", None)
        _attribute(node, "auto_pad", draft.pick(["SAME_LOWER", "SAME_UPPER"]))
    else:
        _attribute(node, what, [int(draft.random.integers(1, 4)) for _ in range(spatial)])
    return True


@_mutation
def fix_the_batch(draft: Draft) -> bool:
    """Write a batch of 1 into the shapes of all inputs and outputs."""
    changed = False
    for value in (*draft.model.graph.input, *draft.model.graph.output):
        timed = draft.axes.get(value.name)
        times = {value.type.tensor_type.shape.dim[axis].dim_param for value, axis in _timed(draft)}
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis != timed and dim.dim_param not in times and dim.WhichOneof("value") != "dim_value":
                dim.dim_value, changed = 1, True
    del draft.model.graph.value_info[:]
    return changed


def _timed(draft: Draft) -> Iterator[tuple[ValueInfoProto, int]]:
    for value in draft.model.graph.input:
        if value.name in draft.axes:
            yield value, draft.axes[value.name]


@_mutation
def fix_the_time(draft: Draft) -> bool:
    """Write a number of steps into the shapes of all inputs."""
    if not draft.axes or draft.lengths:
        return False
    size = draft.pick([1, 1, 1, 4])
    for value, axis in list(_timed(draft)):
        value.type.tensor_type.shape.dim[axis].dim_value = size
    for value in draft.model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(draft.model)
    for value, shaped in zip(draft.model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(shaped)
    del draft.model.graph.value_info[:]
    draft.axes.clear()
    return True


@_mutation
def drop_the_names_of_axes(draft: Draft) -> bool:
    """Leave the names of all open axes away."""
    for value in (*draft.model.graph.input, *draft.model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") == "dim_param":
                dim.Clear()
    return True


@_mutation
def confuse_the_names_of_axes(draft: Draft) -> bool:
    """Call the batch the time and the time the batch, all of them alike, or each by a name of its own."""
    style = draft.pick(["turned", "alike", "apart", "batch"])
    times = {value.type.tensor_type.shape.dim[axis].dim_param for value, axis in _timed(draft)}
    for number, value in enumerate((*draft.model.graph.input, *draft.model.graph.output)):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_param:
                continue
            timed = dim.dim_param in times
            if style == "turned" and value.name in draft.axes and not timed:
                draft.named[value.name] = axis
            dim.dim_param = {
                "turned": "batch_size" if timed else "sequence_length",
                "alike": "N",
                "apart": f"dim_{number}_{axis}",
                "batch": "batch" if timed else "n",
            }[style]
    return True


@_mutation
def forget_the_shapes_of_outputs(draft: Draft) -> bool:
    """Say of outputs no sizes, or wrong ones."""
    for value in draft.model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            dim.Clear()
            if draft.chance():
                dim.dim_param = f"out_{axis}"
    return True


@_mutation
def put_the_batch_elsewhere(draft: Draft) -> bool:
    """Let an input have its first two axes the other way round, by a Transpose behind it."""
    name = draft.pick([name for name, dims in draft.values(3).items() if name in draft.inputs])
    if name is None:
        return False
    value = draft.inputs[name]
    perm = draft.pick([[1, 0, 2], [1, 0, 2], [0, 2, 1], [2, 0, 1]])
    dims = [type(dim).FromString(dim.SerializeToString()) for dim in value.type.tensor_type.shape.dim]
    for at, dim in zip(perm, dims, strict=True):
        value.type.tensor_type.shape.dim[at].CopyFrom(dim)
    if name in draft.axes:
        draft.axes[name] = perm[draft.axes[name]]
    if name in draft.named:
        draft.named[name] = perm[draft.named[name]]
    draft.insert(name, lambda read, written: [helper.make_node("Transpose", [read], [written], perm=perm)])
    return True


@_mutation
def turn_the_layout(draft: Draft) -> bool:
    """Let a layer take what was the batch for its time."""
    node = draft.pick(draft.layers())
    if node is None or draft.model.opset_import[0].version < 14:
        return False
    if not any(node.input[5:7]) and not any(node.output[1:]) and draft.chance(0.7):
        # the same function
        read, written = node.input[0], node.output[0]
        if not written or _get(node, "layout", 0):
            return False
        _attribute(node, "layout", 1)
        at = list(draft.model.graph.node).index(node)
        new, raw = draft.fresh("major"), draft.fresh("raw")
        node.input[0], node.output[0] = new, raw
        draft.put(at + 1, [helper.make_node("Transpose", [raw], [written], perm=[1, 2, 0, 3])])
        draft.put(at, [helper.make_node("Transpose", [read], [new], perm=[1, 0, 2])])
        return True
    return False


@_mutation
def set_a_layer_s_attributes(draft: Draft) -> bool:
    """Set the activations, or what else a layer does in its step."""
    node = draft.pick(draft.layers())
    if node is None:
        return False
    directions = _sizes(draft, node)[0]
    if node.op_type == "GRU" and draft.chance():
        _attribute(node, "linear_before_reset", 1)
        return True
    if node.op_type == "LSTM" and draft.chance(0.3):
        _attribute(node, "input_forget", 1)
        return True
    names = {"LSTM": ["HardSigmoid", "Tanh", "Softsign"], "GRU": ["HardSigmoid", "Softsign"], "RNN": ["Relu"]}
    _attribute(node, "activations", names[node.op_type] * directions)
    return True


@_mutation
def count_the_steps(draft: Draft) -> bool:
    """Tell a layer how many steps there are: a number in the file, or an input."""
    node = draft.pick([n for n in draft.layers() if len(n.input) < 5 or not n.input[4]])
    if node is None or draft.lengths:
        return False
    if draft.chance(0.4):
        _set(node.input, 4, draft.constant([draft.pick([1, 3, 5])], np.int32))
        return True
    if not draft.axes:
        return False
    name = draft.pick(["lens", "sequence_lens", draft.fresh("n")])
    if name in draft.inputs:
        return False
    draft.model.graph.input.append(
        helper.make_tensor_value_info(name, TensorProto.INT32, [draft.pick(["n", "batch", 1])])
    )
    _set(node.input, 4, name)
    draft.lengths = (name,)
    return True


@_mutation
def scale_weights(draft: Draft) -> bool:
    """Make the weights of a node larger or smaller."""
    node = draft.pick([*draft.layers(), *draft.nodes("MatMul", "Conv", "Gemm")])
    name = None if node is None else draft.pick([one for one in node.input if one in draft.weights])
    if name is None or name in {value.name for value in draft.model.graph.input}:
        return False
    tensor = draft.weights[name]
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor) * float(draft.pick([0.1, 0.5, 2.0, 3.0]))
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return True


@_mutation
def add_a_gain(draft: Draft) -> bool:
    """Multiply the input by another input, of one value for a row, a step, or the whole batch."""
    name = draft.pick([name for name in draft.values() if name in draft.inputs and name not in draft.pairs])
    if name is None or "gain" in draft.inputs:
        return False
    dims = draft.values()[name]
    kind = draft.pick(["scalar", "one", "row", "step"])
    if kind == "step":
        sizes: list[int | str] = [*dims]
        if not all(sizes):
            return False
        if name in draft.axes:
            draft.axes["gain"] = draft.axes[name]
    elif kind == "row":
        timed = draft.axes.get(name)
        sizes = [1 if axis == timed or isinstance(size, int) else size or 1 for axis, size in enumerate(dims)]
    else:
        sizes = [] if kind == "scalar" else [1]
    draft.model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, sizes))
    draft.insert(name, lambda read, written: [helper.make_node("Mul", [read, "gain"], [written])])
    return True


@_mutation
def show_a_value_inside(draft: Draft) -> bool:
    """Give out one more value of the graph."""
    shown = {value.name for value in (*draft.model.graph.output, *draft.model.graph.input)}
    found = {name: dims for name, dims in draft.values().items() if name not in shown}
    name = draft.pick(found)
    if name is None:
        return False
    dims = [size or None for size in found[name]]
    draft.model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return True


@_mutation
def cut_the_output(draft: Draft) -> bool:
    """Give out the last step, the first, all but one, every other one, or the steps backwards."""
    axis = 0 if draft.chance() else 1
    name = draft.pick([v.name for v in draft.model.graph.output if v.name not in draft.pairs.values()])
    if name is None or not draft.axes or draft.model.opset_import[0].version < 13:
        return False
    start, stop, step = draft.pick(
        [(-1, _LAST, 1), (0, 1, 1), (0, -1, 1), (1, _LAST, 1), (0, _LAST, 2), (-1, -_LAST, -1)]
    )
    bounds = [draft.constant([number]) for number in (start, stop, axis, step)]
    draft.insert(name, lambda read, written: [helper.make_node("Slice", [read, *bounds], [written])])
    for value in draft.model.graph.output:
        if value.name == name and len(value.type.tensor_type.shape.dim) > axis:
            value.type.tensor_type.shape.dim[axis].Clear()
    return True


@_mutation
def look_along_an_axis(draft: Draft) -> bool:
    """Put something behind a value that takes several of its rows, steps or features together."""
    name = draft.pick(draft.values(3))
    if name is None or draft.model.opset_import[0].version < 13:
        return False
    axis = int(draft.random.integers(3))
    at = draft.constant([axis])
    kind = draft.pick(["sum", "cumsum", "max", "mean", "softmax", "delay", "ahead", "mute", "turn", "zeros", "norm"])
    new = draft.fresh("part")
    node = helper.make_node

    def nodes(read: str, written: str) -> list[NodeProto]:
        if kind == "cumsum":
            return [node("CumSum", [read, draft.constant(axis)], [written])]
        if kind == "softmax":
            return [node("Softmax", [read], [written], axis=axis)]
        if kind in ("delay", "ahead"):
            pads = [0] * 6
            pads[axis], pads[axis + 3] = (1, -1) if kind == "delay" else (-1, 1)
            return [node("Pad", [read, draft.constant(pads)], [new]), node("Sub", [read, new], [written])]
        if kind == "mute":  # a row is silenced beside one that is loud
            return [
                node("Abs", [read], [new + "a"]),
                node("ReduceMax", [new + "a"], [new + "m"], axes=[axis], keepdims=1),
                node("Less", [new + "m", draft.constant(100.0, np.float32)], [new + "c"]),
                node("Where", [new + "c", read, draft.constant(0.0, np.float32)], [written]),
            ]
        if kind == "turn":
            bounds = [draft.constant([number]) for number in (-1, -_LAST)]
            return [
                node("Slice", [read, *bounds, at, draft.constant([-1])], [new]),
                node("Add", [read, new], [written]),
            ]
        if kind == "zeros":
            pads = [0] * 6
            pads[axis] = 1
            bounds = [draft.constant([number]) for number in (0, -1)]
            return [
                node("Pad", [read, draft.constant(pads)], [new + "p"]),
                node("Slice", [new + "p", *bounds, at], [new]),
                node("Add", [read, new], [written]),
            ]
        if kind == "norm":
            return [
                node("ReduceSumSquare", [read], [new], axes=[axis], keepdims=1)
                if draft.model.opset_import[0].version < 18
                else node("ReduceSumSquare", [read, at], [new], keepdims=1),
                node("Add", [new, draft.constant(1.0, np.float32)], [new + "s"]),
                node("Div", [read, new + "s"], [written]),
            ]
        if kind == "sum":
            return [node("ReduceSum", [read, at], [new], keepdims=1), node("Sub", [read, new], [written])]
        operator = {"max": "ReduceMax", "mean": "ReduceMean"}[kind]
        if draft.model.opset_import[0].version < 18:
            reduce = node(operator, [read], [new], axes=[axis], keepdims=1)
        else:
            reduce = node(operator, [read, at], [new], keepdims=1)
        return [reduce, node("Sub", [read, new], [written])]

    if kind == "mute" and draft.model.opset_import[0].version >= 18:
        return False
    draft.insert(name, nodes)
    return True


@_mutation
def add_a_layer(draft: Draft) -> bool:
    """Put a recurrent layer behind a value of three axes, along its first, as keras and torch write them."""
    found = {name: dims for name, dims in draft.values(3).items() if isinstance(dims[2], int) and 0 < dims[2] <= 12}
    name = draft.pick(found)
    if name is None or draft.model.opset_import[0].version < 13:
        return False
    size = int(found[name][2])
    operator = draft.pick(_LAYERS)
    rows = _GATES[operator] * size
    weights = [draft.constant(draft.random.normal(0, 0.4, (1, rows, size)), np.float32) for _ in range(2)]
    batch_first = draft.chance()
    ending = draft.pick(["squeeze", "reshape", "transpose"])

    def nodes(read: str, written: str) -> list[NodeProto]:
        made, y, squeezed = [], draft.fresh("Y"), written
        if batch_first:
            made.append(helper.make_node("Transpose", [read], [y + "/in"], perm=[1, 0, 2]))
            read, squeezed = y + "/in", y + "/out"
        made.append(helper.make_node(operator, [read, *weights], [y], hidden_size=size, name=y))
        if ending == "squeeze":
            made.append(helper.make_node("Squeeze", [y, draft.constant([1])], [squeezed]))
        elif ending == "reshape":
            made.append(helper.make_node("Transpose", [y], [y + "/t"], perm=[0, 2, 1, 3]))
            made.append(helper.make_node("Reshape", [y + "/t", draft.constant([0, 0, -1])], [squeezed]))
        else:
            made.append(helper.make_node("Squeeze", [y, draft.constant([1])], [y + "/s"]))
            made.append(helper.make_node("Identity", [y + "/s"], [squeezed]))
        if batch_first:
            made.append(helper.make_node("Transpose", [squeezed], [written], perm=[1, 0, 2]))
        return made

    draft.insert(name, nodes)
    return True


@_mutation
def add_a_convolution(draft: Draft) -> bool:
    """Put a convolution behind a value of three axes, along its second, padded in front, behind, or on both sides."""
    found = {name: dims for name, dims in draft.values(3).items() if isinstance(dims[2], int) and 0 < dims[2] <= 12}
    name = draft.pick(found)
    if name is None:
        return False
    size = int(found[name][2])
    width, dilation = int(draft.random.integers(1, 5)), int(draft.random.integers(1, 4))
    context = (width - 1) * dilation
    ahead = draft.pick([context, context, context, context // 2, 0])
    kernel = draft.constant(draft.random.normal(0, 0.4, (size, size, width)), np.float32)
    perm = draft.pick([[0, 2, 1], [0, 2, 1], [1, 2, 0]])
    new = draft.fresh("conv")

    def nodes(read: str, written: str) -> list[NodeProto]:
        back = [perm.index(axis) for axis in range(3)]
        return [
            helper.make_node("Transpose", [read], [new + "/in"], perm=perm),
            helper.make_node(
                "Conv", [new + "/in", kernel], [new], pads=[ahead, context - ahead], dilations=[dilation], name=new
            ),
            helper.make_node("Transpose", [new], [written], perm=back),
        ]

    draft.insert(name, nodes)
    return True


@_mutation
def write_sizes_into_a_shape(draft: Draft) -> bool:
    """Put a Reshape to constant sizes behind a value, as files that were traced with one row have."""
    found = {name: dims for name, dims in draft.values(3).items() if isinstance(dims[2], int) and dims[2]}
    name = draft.pick(found)
    if name is None:
        return False
    size = int(found[name][2])
    shape = draft.constant(draft.pick([[1, -1, size], [-1, 1, size], [0, 0, size], [0, -1, size], [-1, 0, size]]))
    draft.insert(name, lambda read, written: [helper.make_node("Reshape", [read, shape], [written])])
    return True


@_mutation
def fold_a_value(draft: Draft) -> bool:
    """Fold the first two axes of a value together for a product and take them apart again by constant sizes."""
    found = {name: dims for name, dims in draft.values(3).items() if isinstance(dims[2], int) and dims[2]}
    name = draft.pick(found)
    if name is None:
        return False
    size = int(found[name][2])
    new = draft.fresh("flat")
    shapes = [draft.constant([-1, size]), draft.constant(draft.pick([[1, -1, size], [-1, 1, size]]))]
    weight = draft.constant(draft.random.normal(0, 0.5, (size, size)), np.float32)
    draft.insert(
        name,
        lambda read, written: [
            helper.make_node("Reshape", [read, shapes[0]], [new]),
            helper.make_node("MatMul", [new, weight], [new + "/w"]),
            helper.make_node("Reshape", [new + "/w", shapes[1]], [written]),
        ],
    )
    return True


@_mutation
def go_around_a_node(draft: Draft) -> bool:
    """Add one value to another of the same shape."""
    found = draft.values()
    name = draft.pick(found)
    made = [one for node in draft.model.graph.node for one in node.output]
    if name is None or name not in made:
        return False
    earlier = {*made[: made.index(name)], *draft.inputs}
    other = draft.pick([one for one, dims in found.items() if one in earlier and dims == found[name]])
    if other is None:
        return False
    draft.insert(name, lambda read, written: [helper.make_node("Add", [read, other], [written])])
    return True
