"""Two cells over one sequence: the backward one reads each sequence from its true end."""

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput, LowerFunction
from export.lower.value import Value, concat
from models.cells.bidirectional import Bidirectional


def lower_bidirectional(
    graph: GraphBuilder, cell: Bidirectional, cell_input: CellInput, lower: LowerFunction
) -> CellOutput:
    """Lower both cells with `lower`, and reverse the backward one's input and output within each length."""
    count = len(cell.onward.states)
    lengths = cell_input.lengths
    onward = lower(graph, cell.onward, CellInput(cell_input.x, lengths, cell_input.states[:count]))
    reversed_x = _reverse(Value(graph, cell_input.x), lengths)
    backward = lower(graph, cell.backward, CellInput(reversed_x.name, lengths, cell_input.states[count:]))
    y = concat(Value(graph, onward.y), _reverse(Value(graph, backward.y), lengths))
    return CellOutput(y.name, (*onward.states, *backward.states))


def _reverse(value: Value, lengths: str) -> Value:
    """Return the first `lengths` steps of each sequence reversed."""
    as_int64 = Value(value.graph, lengths).op("Cast", to=7)
    return value.op("ReverseSequence", as_int64, time_axis=0, batch_axis=1)
