"""Raw onnxruntime: the reference model without arena or service, run in this process on one thread."""

import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, save

from benchmarks.reference import FEATURES, HIDDEN, LAYERS, OUTPUTS, reference_network
from export.arena_graph import IR_VERSION, OPSET
from export.lower import CellInput, GraphBuilder, lower_cell


def write_raw_model(path: Path) -> None:
    """Write the reference model as an ONNX file.

    Inputs are x (time, batch, features) and h and c of each layer (1, batch, hidden); outputs are
    y (time, batch, outputs) and the new states.
    """
    network = reference_network()
    graph = GraphBuilder("raw")
    value = graph.input("x", "float32", ["time", "batch", FEATURES])
    shape = graph.node("Shape", [value], start=1, end=2)
    time_axis = graph.node("Shape", [value], start=0, end=1)
    lengths = graph.node("Cast", [graph.node("Expand", [time_axis, shape])], to=TensorProto.INT32)
    states: list[str] = []
    new_states: list[str] = []
    for layer, cell in enumerate(network.stack.cells):
        names = tuple(graph.input(f"{spec.name}{layer}", "float32", [1, "batch", HIDDEN]) for spec in cell.states)
        lowered = lower_cell(graph, cell, CellInput(x=value, lengths=lengths, states=names))
        value = lowered.y
        states += names
        new_states += lowered.states
    projected = graph.node("MatMul", [value, graph.constant(network.head.weight.T, hint="head_w")])
    graph.node("Add", [projected, graph.constant(network.head.bias, hint="head_b")], output="y")
    graph.output("y", "float32", ["time", "batch", OUTPUTS])
    for name in new_states:
        graph.output(name, "float32", [1, "batch", HIDDEN])
    save(helper.make_model(graph.build(), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION), path)


class RawModel:
    """The reference model in an onnxruntime session of this process, on one thread."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._states = [node.name for node in self._session.get_inputs()[1:]]
        assert len(self._states) == 2 * LAYERS

    def run(self, steps: int, batch: int) -> None:
        """Run one batch of sequences of `steps` steps from a zero state."""
        zeros = np.zeros((1, batch, HIDDEN), np.float32)
        x = np.ones((steps, batch, FEATURES), np.float32)
        self._session.run(None, {"x": x, **dict.fromkeys(self._states, zeros)})

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs (time, outputs) of one sequence (time, features)."""
        zeros = np.zeros((1, 1, HIDDEN), np.float32)
        outputs = self._session.run(["y"], {"x": inputs[:, None], **dict.fromkeys(self._states, zeros)})[0]
        return np.asarray(outputs)[:, 0]

    def steps_per_second(self, steps: int, batch: int, seconds: float) -> float:
        """Return the steps per second, counted per sequence, of repeated runs during `seconds`."""
        self.run(steps, batch)
        runs, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            self.run(steps, batch)
            runs += 1
        return runs * steps * batch / passed
