"""The LSTM with a projection as one LSTM node with R V in the place of R, and one product after it."""

import torch

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput, Form, Forms
from export.lower.lstm import ROWS
from export.lower.native import in_order, native_node
from export.lower.value import Value
from models.cells.base import Cell
from models.cells.projection import ProjectionLSTM


def lower(graph: GraphBuilder, cell: ProjectionLSTM, cell_input: CellInput) -> CellOutput:
    """Fold the projection into the recurrent weights, in double precision; the node carries m and c."""
    w, r, b = in_order(cell.gates, ROWS)
    folded = (r.double() @ cell.V.double()).float()
    weights = (w, folded, b, torch.zeros_like(b))
    output = native_node(graph, "LSTM", cell_input, weights, cell.hidden_size)
    return CellOutput((Value(graph, output.y) @ cell.V.T).name, output.states)


FORMS: dict[type[Cell], Forms] = {ProjectionLSTM: Forms.alike(Form("LSTM", lower))}
