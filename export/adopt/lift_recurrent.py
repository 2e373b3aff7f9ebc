"""Recurrent layers, Scan and Loop nodes over time: their hidden states become inputs and outputs of the graph."""

import numpy as np
from onnx import NodeProto

from export.adopt.carried import StateAdder, attribute, described, set_name
from export.adopt.value_axes import ValueAxes

_SLOTS = {"h": (5, 1), "c": (6, 2)}
"""State of a layer → the index of its initial value among the inputs, and of its final value among the outputs."""


def lift_layer(index: int, node: NodeProto, adder: StateAdder) -> None:
    """Carry the states of an LSTM, GRU or RNN over time that no input holds."""
    axes = adder.axes
    data = node.input[0]
    if axes.times.get(data) != 0 or attribute(node, "direction", b"forward") != b"forward":
        return
    recurrence = adder.value(node.input[2])
    hidden = attribute(node, "hidden_size", 0 if recurrence is None else recurrence.shape[-1])
    rows, dtype = axes.short[data].shape[1], axes.short[data].dtype
    batch = 1 if axes.batches.get(data) == 1 else None
    what, lifted, starts = described(node), [], "zeros"
    for state in ("h", "c") if node.op_type.endswith("LSTM") else ("h",):
        at, to = _SLOTS[state]
        name = node.input[at] if at < len(node.input) else ""
        initial = np.zeros((1, rows, hidden), dtype)
        if name:
            known = adder.value(name)
            if known is None and (source := adder.give_back(index, node, at, to, state)):
                adder.findings.append(
                    f"{what} reads {source} as its state, and the file does not give what it is after a step: it is "
                    f"given, and carried from step to step"
                )
            if known is None or known.shape != initial.shape:
                continue
            initial = known
        if initial.any():
            starts = "the values in the file"
        before, after = adder.add(index, state, initial, batch)
        set_name(node.input, at, before)
        if to < len(node.output) and node.output[to]:
            adder.put_after(index, "Identity", [node.output[to]], after)
        else:
            set_name(node.output, to, after)
        lifted.append(adder.states[-1].source)
    if lifted:
        adder.findings.append(
            f"{what} keeps a state that the file does not show: it is carried from step to step as "
            f"{' and '.join(lifted)}, and starts from {starts}"
        )


def lift_loop(index: int, node: NodeProto, adder: StateAdder) -> None:
    """Carry the states of a Scan or Loop over time that no input holds; whole numbers, such as counters, are none."""
    axes, what, lifted = adder.axes, described(node), []
    for at, to in _carried(node, axes):
        name = node.input[at]
        initial = adder.value(name)
        if initial is None or initial.dtype.kind != "f":
            continue
        final = node.output[to]
        if final:
            if axes.grown.get(final) or final not in axes.short:
                continue
            # a start of one value may be meant for all of the state
            initial = np.broadcast_to(initial, axes.short[final].shape).copy()
        before, after = adder.add(index, f"state{at}", initial, axes.batches.get(final or name))
        node.input[at] = before
        if final:
            adder.put_after(index, "Identity", [final], after)
        else:
            node.output[to] = after
        lifted.append(adder.states[-1].source)
    if lifted:
        adder.findings.append(
            f"{what} keeps a state that the file does not show: it is carried from step to step as "
            f"{' and '.join(lifted)}"
        )


def _carried(node: NodeProto, axes: ValueAxes) -> list[tuple[int, int]]:
    """Return the indices of the carried inputs and outputs of a Scan or Loop that runs over time."""
    if node.op_type == "Scan":
        scanned = attribute(node, "num_scan_inputs", 0)
        states = len(node.input) - scanned
        along = attribute(node, "scan_input_axes", None) or [0] * scanned
        if not any(axes.times.get(n) == axis for n, axis in zip(node.input[states:], along, strict=True)):
            return []
        return [(state, state) for state in range(states)]
    states = len(node.input) - 2
    count = node.input[0]
    if not any(axes.times.get(name) == 0 for name in node.output[states:]) and (
        count not in axes.short or np.array_equal(axes.short[count], axes.long[count])
    ):
        return []
    return [(2 + state, state) for state in range(states)]
