"""States added to a foreign graph: an input for the value before the first step and an output for the one after it."""

import re
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from export.adopt.dependencies import Dependencies
from export.adopt.origins import PASSING
from export.adopt.value_axes import ValueAxes
from export.figure import Array
from export.lower.builder import Dim


@dataclass(frozen=True, slots=True)
class AddedState:
    """An input and an output that were added. `initial` is the input for one row, `batch` the axis of its rows."""

    source: str
    target: str
    initial: Array
    batch: int | None


@dataclass(slots=True)
class StateAdder:
    """Adds states to a graph.

    `states` are those added so far, `findings` a sentence for each node that was changed. `before` and `after` hold new
    nodes by the index of the node that they stand beside; the graph takes them in `finish`.
    """

    graph: GraphProto
    axes: ValueAxes
    depends: Dependencies
    states: list[AddedState] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    _weights: dict[str, Array] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _before: dict[int, list[NodeProto]] = field(default_factory=dict)
    _after: dict[int, list[NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.graph
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        self._weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def value(self, name: str) -> Array | None:
        """Return a value of a run of one row that is the same in every run; None where it depends on an input."""
        if name in self._weights:
            return self._weights[name]
        if self.depends.of(name):
            return None
        short, long = self.axes.short.get(name), self.axes.long.get(name)
        return short if short is not None and long is not None and np.array_equal(short, long) else None

    def fresh(self, hint: str) -> str:
        """Return a name that no value has."""
        name, count = hint, 2
        while name in self._taken:
            name, count = f"{hint}_{count}", count + 1
        self._taken.add(name)
        return name

    def constant(self, values: list[int]) -> str:
        """Return the name of a new list of int64."""
        name = self.fresh("lifted/numbers")
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def put_before(self, index: int, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node before that of an index; return its output."""
        self._before.setdefault(index, []).append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def put_after(self, index: int, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node after that of an index; return its output."""
        self._after.setdefault(index, []).append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def add(self, index: int, name: str, initial: Array, batch: int | None) -> tuple[str, str]:
        """Add a state for a node; return what the node reads as its value before, and the name its value after gets.

        `initial` is the value before the first step for one row. Its axis `batch` holds the rows, several for each
        sequence where they are folded into it; the state then has an axis of its own for them.
        """
        base = node_name(self.graph.node[index])
        source, target = self.fresh(f"{base}.{name}"), self.fresh(f"{base}.{name}_after")
        dims: list[Dim] = list(initial.shape)
        read, written, held = source, target, initial
        if batch is not None and self.axes.batch:
            rows = initial.shape[batch]
            if rows > 1:
                held = initial.reshape(*initial.shape[:batch], 1, *initial.shape[batch:])
                dims.insert(batch, self.axes.batch[0])
                folded = [*initial.shape[:batch], -1, *initial.shape[batch + 1 :]]
                apart = [*initial.shape[:batch], -1, *initial.shape[batch:]]
                read = self.put_before(
                    index, "Reshape", [source, self.constant(folded)], self.fresh(f"lifted/{source}")
                )
                written = self.fresh(f"lifted/{target}")
                self.put_after(index, "Reshape", [written, self.constant(apart)], target)
            else:
                dims[batch] = self.axes.batch[0]
        else:
            batch = None
        kind = helper.np_dtype_to_tensor_dtype(initial.dtype)
        self.graph.input.append(helper.make_tensor_value_info(source, kind, dims))
        self.graph.output.append(helper.make_tensor_value_info(target, kind, dims))
        self.states.append(AddedState(source, target, held, batch))
        return read, written

    def give_back(self, index: int, node: NodeProto, at: int, to: int, name: str) -> str:
        """Give the state after a node as an output, where an input alone is its state before and no output gives it.

        Return that input, or nothing where there is none, or the user says what it is. The input may reach the node
        through nodes that move its axes; what is given has them moved back.
        """
        moved: list[NodeProto] = []
        source: str = node.input[at]
        makers = {output: one for one in self.graph.node for output in one.output}
        while source in makers and makers[source].op_type in ("Squeeze", "Unsqueeze", "Transpose", "Identity"):
            moved.append(makers[source])
            source = makers[source].input[0]
        if source not in self.axes.tracer.ports or self.axes.tracer.is_settled(source) or self._shown(node, to):
            return ""
        readers = [one for one in self.graph.node if source in one.input]
        if readers != [moved[-1] if moved else node]:
            return ""
        if not (to < len(node.output) and node.output[to]):
            set_name(node.output, to, self.fresh(f"lifted/{node_name(node)}.{name}"))
        value = node.output[to]
        target = self.fresh(f"{node_name(node)}.{name}_after")
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Identity", [value], {}),
            *(_moved_back(one) for one in moved),
        ]
        for number, (operator, more, attributes) in enumerate(steps):
            inputs = [value, *more[1:]] if number else more
            value = self.fresh(f"lifted/{target}") if number < len(steps) - 1 else target
            self.put_after(index, operator, inputs, value, **attributes)
        before = self.axes.short[source]
        kind = helper.np_dtype_to_tensor_dtype(before.dtype)
        self.graph.output.append(helper.make_tensor_value_info(target, kind, self.axes.tracer.ports[source]))
        self.states.append(AddedState(source, target, np.zeros_like(before), self.axes.batches.get(source)))
        return source

    def _shown(self, node: NodeProto, to: int) -> bool:
        """Return whether a node's output is one of the graph's, moved or joined with others at most."""
        names = {node.output[to]} if to < len(node.output) and node.output[to] else set()
        for one in self.graph.node:
            if names & set(one.input) and one.op_type in (*PASSING, "Concat", "Slice", "Gather", "Split"):
                names |= set(one.output)
        return bool(names & {value.name for value in self.graph.output})

    def finish(self) -> None:
        """Put all new nodes in their positions; declared shapes of other values are dropped."""
        nodes: list[NodeProto] = []
        for index, node in enumerate(self.graph.node):
            # a state's Reshape comes after the nodes that compute what it reads
            after = sorted(self._after.get(index, ()), key=lambda one: one.op_type == "Reshape")
            nodes += [*self._before.get(index, ()), node, *after]
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        del self.graph.value_info[:]


def _moved_back(node: NodeProto) -> tuple[str, list[str], dict[str, Any]]:
    """Return the operator, inputs and attributes of a node that moves axes back to where this one took them from."""
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", None)
        return "Transpose", [""], {} if perm is None else {"perm": [int(axis) for axis in np.argsort(perm)]}
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    opposite = {"Squeeze": "Unsqueeze", "Unsqueeze": "Squeeze"}.get(node.op_type, node.op_type)
    return opposite, ["", *node.input[1:]], given


def node_name(node: NodeProto) -> str:
    """Return a short name for a node, of letters, digits and '_'."""
    name = node.name or next(filter(None, node.output), "")
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or node.op_type.lower()


def described(node: NodeProto) -> str:
    """Return a node's type and name as a finding says them."""
    return f"{node.op_type} {node.name or ', '.join(filter(None, node.output))!r}"


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute."""
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def set_name(names: MutableSequence[str], index: int, name: str) -> None:
    """Set one of a node's inputs or outputs, which may have fewer."""
    while len(names) <= index:
        names.append("")
    names[index] = name
