"""From a user's module to an ONNX model with its states as inputs and outputs."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import nn

from export.graphs import rename_values
from export.lower import GraphBuilder
from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.explicit import DOMAIN, OPERATOR, Explicit
from export.module.layers import Layer
from export.module.outputs import ModuleOutput
from export.module.running import RAISED, quiet
from export.module.value_reads import ValueReads, warned_lines
from export.sentences import foreign_error

OPSET = 20  # the newest that torch traces to; the lowering of cells needs 18


def trace(
    explicit: Explicit, examples: Sequence[Example], sent: Sequence[str], outputs: Sequence[ModuleOutput], *, steps: int
) -> tuple[ModelProto, list[str]]:
    """Trace a module over some steps; recurrent layers are lowered here, all else is exported by torch.

    Inputs are those of `sent` and the states; outputs have their own names, and states `after/` before theirs. The time
    is an axis of no fixed size where more than one step is traced. The second result are the lines of the user's code
    that read a tensor's value: the trace holds only what they did with it this time.

    Raises:
        NotStreamableError: torch cannot export the module.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = [example.draw(2, steps, generator) for example in examples]
    axes = {name: {example.batch_axis: "batch"} for name, example in zip(sent, examples, strict=True)}
    if steps > 1:
        for name, example in zip(sent, examples, strict=True):
            axes[name][example.time_axis] = "time"
    after, reads = [f"after/{name}" for name in explicit.names], ValueReads()
    axes |= {
        name: {axis: "batch"}
        for names in (explicit.names, after)
        for name, axis in zip(names, explicit.axes, strict=True)
    }
    try:
        with (
            tempfile.TemporaryDirectory(prefix="cellstream-") as folder,
            _no_log(explicit.module),
            quiet(),
            warnings.catch_warnings(record=True) as caught,
            torch.no_grad(),
        ):
            warnings.simplefilter("always")
            with reads:
                explicit.module(*inputs, *explicit.zeros)
            torch.onnx.export(
                explicit.module,
                (*inputs, *explicit.zeros),
                str(Path(folder) / "traced.onnx"),
                input_names=[*sent, *explicit.names],
                output_names=[*(output.name for output in outputs), *after],
                dynamic_axes=axes,
                opset_version=OPSET,
                custom_opsets={DOMAIN: 1} if explicit.layers else {},
                dynamo=False,
            )
            model = onnx.load(Path(folder) / "traced.onnx")
    except NotStreamableError:
        raise
    except RAISED as exc:  # torch raises many types
        reason = foreign_error(exc)
        if "complex" in reason.lower():
            reason += (
                ". ONNX's operators take no complex numbers: compute with their real and imaginary parts, two tensors"
            )
        raise NotStreamableError(f"torch cannot export the module: {reason}") from exc
    for name in {*sent, *explicit.names} - {value.name for value in model.graph.input}:
        raise NotStreamableError(f"{name} is given to the module, but nothing in it depends on it")
    return _lowered(model, explicit.layers), sorted(reads.lines | warned_lines(caught))


@contextmanager
def _no_log(module: nn.Module) -> Iterator[None]:
    """Keep torch's exporter from writing a graph that it cannot export on the process's stdout.

    The exporter enables its log as it starts, so this disables it when the module is run.
    """
    handle = module.register_forward_pre_hook(lambda *_: torch._C._jit_set_onnx_log_enabled(False))
    try:
        yield
    finally:
        handle.remove()


def _renamer(prefix: str, kept: set[str]) -> Callable[[str], str]:
    return lambda name: name if name in kept else f"{prefix}/{name}"


def _lowered(model: ModelProto, layers: Sequence[Layer]) -> ModelProto:
    """Replace the node that stands for each layer by the layer's own nodes."""
    nodes = []
    for node in model.graph.node:
        if (node.domain, node.op_type) != (DOMAIN, OPERATOR):
            nodes.append(node)
            continue
        index = next(attribute.i for attribute in node.attribute if attribute.name == "index")
        graph = GraphBuilder(f"layer{index}")
        x, *states = node.input
        found = layers[index].lower(graph, x, states)
        for name, output in zip(found, node.output, strict=True):
            graph.node("Identity", [name], output=output)
        built = graph.build()
        kept = {"", x, *states, *node.output}
        rename_values(built, _renamer(f"layer{index}", kept))
        nodes.extend(built.node)
        model.graph.initializer.extend(built.initializer)
    copies = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    imports = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return model
