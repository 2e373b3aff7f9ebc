"""Two cells over one sequence: the backward one reads each sequence from its true end."""

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput, Lowering
from export.lower.value import Value, concat
from models.cells.bidirectional import Bidirectional


def lower_bidirectional(graph: GraphBuilder, cell: Bidirectional, cell_input: CellInput, lower: Lowering) -> CellOutput:
    """Lower both cells with `lower`, and turn the backward one's input and output round within each length."""
    count = len(cell.onward.states)
    lengths = cell_input.lengths
    onward = lower(graph, cell.onward, CellInput(cell_input.x, lengths, cell_input.states[:count]))
    turned = _turn(Value(graph, cell_input.x), lengths)
    backward = lower(graph, cell.backward, CellInput(turned.name, lengths, cell_input.states[count:]))
    y = concat(Value(graph, onward.y), _turn(Value(graph, backward.y), lengths))
    return CellOutput(y.name, (*onward.states, *backward.states))


def _turn(value: Value, lengths: str) -> Value:
    """Return the first `lengths` steps of each sequence in reverse order."""
    as_int64 = Value(value.graph, lengths).op("Cast", to=7)
    return value.op("ReverseSequence", as_int64, time_axis=0, batch_axis=1)
