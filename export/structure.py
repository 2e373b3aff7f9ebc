"""The check that a graph never copies its arenas."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import GraphProto

from export.errors import ArenaCopiedError, GraphFailedError
from export.sentences import foreign_error


def check_arenas_stay(model: bytes, states: Iterable[str]) -> None:
    """Check that in the graph onnxruntime will run, each arena feeds one Gather and one ScatterND and nothing else.

    The buffer's address would show nothing: a graph that copies the whole arena into the same buffer keeps it too.

    Raises:
        GraphFailedError: onnxruntime does not load the graph.
        ArenaCopiedError: Anything else reads an arena, or arena_out is not the ScatterND's own output.
    """
    graph = _optimised(model)
    for state in states:
        arena, arena_out = f"arena.{state}", f"arena_out.{state}"
        readers = sorted(
            f"{node.op_type}[{index}]" for node in graph.node for index, name in enumerate(node.input) if name == arena
        )
        if readers != ["Gather[0]", "ScatterND[0]"]:
            raise ArenaCopiedError(arena, f"feeds {', '.join(readers) or 'nothing'}")
        writers = [node.op_type for node in graph.node if arena_out in node.output]
        if writers != ["ScatterND"]:
            raise ArenaCopiedError(arena, f"{arena_out} comes from {', '.join(writers) or 'nothing'}")


def _optimised(model: bytes) -> GraphProto:
    with tempfile.TemporaryDirectory(prefix="cellstream-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3  # without warnings of unused weights
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime raises many types
            raise GraphFailedError(foreign_error(exc)) from exc
        return onnx.load(path).graph
