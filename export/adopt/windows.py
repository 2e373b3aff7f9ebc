"""Steps that are cut from a signal: does the model's first layer reach over their edges."""

from onnx import ModelProto

from export.adopt.nodes_over_time import has_kernel, named_node
from export.adopt.options import AdoptOptions
from export.adopt.origins import PASSING
from export.graphs import all_graphs

_ELEMENTWISE = ("Pad", "Add", "Sub", "Mul", "Div", "Clip")


def warn_of_windows(model: ModelProto, options: AdoptOptions) -> list[str]:
    """Return a warning for each input with a --step and no --overlap that a convolution or an STFT reads first."""
    graphs = list(all_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    sizes = {tensor.name: tensor.dims for graph in graphs for tensor in graph.initializer}
    found = []
    for name in options.steps:
        if name in options.overlaps:
            continue
        aliases = {name}
        for node in nodes:
            if not aliases & set(node.input):
                continue
            if node.op_type in (*PASSING, *_ELEMENTWISE):
                aliases |= set(node.output)
            elif node.op_type == "STFT" or has_kernel(node, sizes):
                found.append(
                    f"warning: each step of {name} is run without what precedes it, and the first node that reads it, "
                    f"{named_node(node)}, computes from neighbouring values: if the model was made for windows that "
                    f"overlap, give --overlap {name}:SAMPLES"
                )
                break
    return found
