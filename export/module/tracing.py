"""From a user's module to an ONNX model with its states as inputs and outputs."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from export.graphs import rename_values
from export.lower import GraphBuilder
from export.module.choices import Comparisons, lines_told
from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.given import Given, TakesState
from export.module.layers import Layer
from export.module.recording import Carried, Leaf, given_to, leaves_of
from export.module.running import RAISED, quiet, said
from export.sentences import foreign_error

OPSET = 20  # the newest that torch traces to; the lowering of cells needs 18
_DOMAIN = "cellstream"
_OP = "Layer"


@dataclass(frozen=True, slots=True)
class Explicit:
    """A module that takes and returns its states as tensors, ready to be traced.

    It takes inputs, then states; it returns the leaves, then states. `axes` are the states' batch axes, `zeros` ones
    for a batch of 2. Placeholders in its trace stand for `layers`.
    """

    module: nn.Module
    names: list[str]
    axes: list[int]
    zeros: list[Tensor]
    layers: list[Layer]


def make_explicit(
    module: nn.Module, carried: Sequence[Carried], given: Given | None, leaves: Sequence[Leaf], inputs: int
) -> Explicit:
    """Return a copy of a module whose states are explicit: those of its layers, or those that it takes itself."""
    if given is not None:
        places = [leaf.place for leaf in leaves]
        return Explicit(TakesState(module, given, inputs, places), given.names, given.axes, given.zeros, [])
    layers = [layer for one in carried for layer in one.layers]
    names = [name for one in carried for layer in range(len(one.layers)) for name in one.names(layer)]
    try:
        own = copy.deepcopy(module)
    except RAISED as exc:
        raise NotStreamableError(f"the module cannot be copied, as it must be to be exported: {said(exc)}") from exc
    wrapper = _Explicit(own, _Book(), carried, leaves, inputs)
    zeros = [torch.zeros(2, *spec.shape) for layer in layers for spec in layer.cell.states]
    return Explicit(wrapper, names, [0] * len(names), zeros, layers)


def trace(
    explicit: Explicit, examples: Sequence[Example], sent: Sequence[str], leaves: Sequence[Leaf], *, steps: int
) -> tuple[ModelProto, list[str]]:
    """Trace a module over some steps; recurrent layers are lowered by us, all else by torch's exporter.

    Inputs are those of `sent` and the states; outputs the leaves' names, and each state's name behind `after/`. The
    time is an axis of no fixed size where more than one step is traced. With the model come the lines of the user's
    code that did something with a tensor's value: the trace holds only what they did this time.

    Raises:
        NotStreamableError: torch cannot export the module.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = [example.draw(2, steps, generator) for example in examples]
    axes = {name: {example.batch_axis: "batch"} for name, example in zip(sent, examples, strict=True)}
    if steps > 1:
        for name, example in zip(sent, examples, strict=True):
            axes[name][example.time_axis] = "time"
    after, comparisons = [f"after/{name}" for name in explicit.names], Comparisons()
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
            with comparisons:
                explicit.module(*inputs, *explicit.zeros)
            torch.onnx.export(
                explicit.module,
                (*inputs, *explicit.zeros),
                str(Path(folder) / "traced.onnx"),
                input_names=[*sent, *explicit.names],
                output_names=[*(leaf.name for leaf in leaves), *after],
                dynamic_axes=axes,
                opset_version=OPSET,
                custom_opsets={_DOMAIN: 1} if explicit.layers else {},
                dynamo=False,
            )
            model = onnx.load(Path(folder) / "traced.onnx")
    except NotStreamableError:
        raise
    except RAISED as exc:  # torch raises a dozen types of its own
        raise NotStreamableError(f"torch cannot export the module: {foreign_error(exc)}") from exc
    for name in {*sent, *explicit.names} - {value.name for value in model.graph.input}:
        raise NotStreamableError(f"{name} is given to the module, but nothing in it depends on it")
    return _lowered(model, explicit.layers), sorted(comparisons.lines | lines_told(caught))


@contextmanager
def _no_log(module: nn.Module) -> Iterator[None]:
    """Keep torch's exporter from writing a graph that it cannot export on the process's stdout.

    It turns its log on as it starts, so it is turned off when it runs the module.
    """
    handle = module.register_forward_pre_hook(lambda *_: torch._C._jit_set_onnx_log_enabled(False))
    try:
        yield
    finally:
        handle.remove()


@dataclass(slots=True)
class _Book:
    """The states of the trace under way: what comes in by name, and what goes out."""

    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)


class _Explicit(nn.Module):
    """Take states as arguments and return them: the recurrent layers inside read and write a book."""

    def __init__(
        self, module: nn.Module, book: _Book, carried: Sequence[Carried], leaves: Sequence[Leaf], inputs: int
    ) -> None:
        super().__init__()
        self.module, self._book, self._leaves, self._inputs = module, book, leaves, inputs
        self._names = [name for one in carried for layer in range(len(one.layers)) for name in one.names(layer)]
        first = 0
        for one in carried:
            part = module if one.path == "root" else module.get_submodule(one.path)
            part.forward = _forward(part, one, book, first)
            first += len(one.layers)

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        self._book.before = dict(zip(self._names, args[self._inputs :], strict=True))
        found = leaves_of(self.module(*args[: self._inputs]))
        outputs = [found[leaf.place][1] for leaf in self._leaves]
        return (*outputs, *(self._book.after[name] for name in self._names))


def _forward(part: nn.Module, one: Carried, book: _Book, first: int) -> Callable[..., Any]:
    """Return the forward that takes the carried state in the place of whatever it is given."""

    def run(x: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        rows, columns = len(book.before[one.names(0)[0]]), []
        if x.dim() != 3 or int(x.shape[1]) != rows:  # torch's kernels do not look, and write beyond the states
            raise NotStreamableError(
                f"{one.path} is given {list(map(int, x.shape))}, time first, where the example has {rows} rows"
            )
        for index, layer in enumerate(one.layers):
            names = one.names(index)
            before = [book.before[name] for name in names]
            x, *after = _Placeholder.apply(first + index, layer, x, *before)  # type: ignore[no-untyped-call]
            book.after.update(zip(names, after, strict=True))
            columns.append([x[-1], *after[1:]] if layer.projection is not None else after)
        return x, columns

    def sequence(*args: Any, **kwargs: Any) -> Any:
        assert isinstance(part, nn.RNNBase)
        x, _ = given_to(args, kwargs)
        y, columns = run(x.transpose(0, 1) if part.batch_first else x)
        states = tuple(torch.stack(rows) for rows in zip(*columns, strict=True))
        return (y.transpose(0, 1) if part.batch_first else y), (states if part.mode == "LSTM" else states[0])

    def cell(*args: Any, **kwargs: Any) -> Any:
        x, _ = given_to(args, kwargs)
        y, (states,) = run(x.unsqueeze(0))
        if not isinstance(part, nn.RNNCellBase):
            return y.squeeze(0), tuple(states)
        return tuple(states) if isinstance(part, nn.LSTMCell) else states[0]

    return cell if one.is_cell else sequence


class _Placeholder(torch.autograd.Function):
    """One layer in the trace; the exporter leaves one node of our own domain in its place."""

    @staticmethod
    def forward(ctx: Any, index: int, layer: Layer, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return layer.run(x, states)

    @staticmethod
    def symbolic(g: Any, index: int, layer: Layer, x: Any, *states: Any) -> Any:
        found = g.op(f"{_DOMAIN}::{_OP}", x, *states, index_i=index, outputs=1 + len(states))
        found[0].setType(x.type().with_sizes([None, None, layer.width]))
        for value, state in zip(found[1:], states, strict=True):
            value.setType(state.type())
        return found


def _apart(prefix: str, kept: set[str]) -> Callable[[str], str]:
    return lambda name: name if name in kept else f"{prefix}/{name}"


def _lowered(model: ModelProto, layers: Sequence[Layer]) -> ModelProto:
    """Put each layer's own nodes in the place of its placeholder."""
    nodes = []
    for node in model.graph.node:
        if (node.domain, node.op_type) != (_DOMAIN, _OP):
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
        rename_values(built, _apart(f"layer{index}", kept))
        nodes.extend(built.node)
        model.graph.initializer.extend(built.initializer)
    copies = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    imports = [entry for entry in model.opset_import if entry.domain != _DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return model
