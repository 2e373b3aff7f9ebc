"""The LSTM with a projection as one LSTM node with R V instead of R, and one product after it."""

import torch

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellLowerings, CellOutput, Lowering
from export.lower.lstm import ROWS
from export.lower.native import gate_rows, native_node
from export.lower.value import Value
from models.cells.base import Cell
from models.cells.projection import ProjectionLSTM


def lower(graph: GraphBuilder, cell: ProjectionLSTM, cell_input: CellInput) -> CellOutput:
    """Fold the projection into the recurrent weights, in double precision; the node carries m and c."""
    w, r, b = gate_rows(cell.gates, ROWS)
    folded = (r.double() @ cell.V.double()).float()
    weights = (w, folded, b, torch.zeros_like(b))
    output = native_node(graph, "LSTM", cell_input, weights, cell.hidden_size)
    return CellOutput((Value(graph, output.y) @ cell.V.T).name, output.states)


LOWERINGS: dict[type[Cell], CellLowerings] = {ProjectionLSTM: CellLowerings.same(Lowering("LSTM", lower))}
