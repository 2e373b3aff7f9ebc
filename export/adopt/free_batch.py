"""A file made for a batch of 1, rewritten for any: in its declared sizes, and in the shapes that its nodes make."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto, helper

from export.adopt.dependencies import reads
from export.adopt.errors import AdoptError
from export.adopt.foreign_model import RunFailedError
from export.adopt.lift import Lifted, inlined
from export.adopt.open_nodes import OPENED, Way, as_it_is, ways_to_open
from export.adopt.options import AdoptOptions
from export.adopt.planning import Planned, make_plan
from export.adopt.steps_as_rows import steps_as_rows
from export.adopt.value_axes import RECURRENT, Tracer, Values
from export.figure import Figure

BATCH = "cellstream_batch"
_ROWS, _STEPS = 3, 7
_TOLERANCE = 1e-6
_MOST_RETURNS = 60
_OPENED = "the file is made for a batch of 1: its shapes are opened"
_STEPS_AS_ROWS = "the file runs the steps of one sequence along its first axis: it is made to run a step of many"
_FOUND = "and rows run together give what they give alone"

Axes = dict[str, int]
"""Input → the axis that is taken for the batch."""


def open_batch(lifted: Lifted, planned: Planned, on_progress: Callable[[str], None]) -> tuple[Lifted, Planned]:
    """Return a model and its plan for several rows, where the given ones are for one row and runs show it is right.

    Otherwise both are returned as they are.
    """
    if planned.plan.batched:
        return lifted, planned
    given = {pair.source: pair.target for pair in planned.original.pairs}
    for whole, axes, told_how in _candidates(lifted, planned, given):
        try:
            model = opened(whole, lifted.options, axes, BATCH)
            if model is None:
                continue
            options = replace(
                lifted.options, batch_axes=axes | lifted.options.batch_axes, states=given | lifted.options.states
            )
            found = make_plan(model, options, on_progress)
        except (AdoptError, RunFailedError):
            continue
        if found.plan.batched:
            freed = replace(lifted, model=model, options=options)
            reasons = {pair.source: pair.reason for pair in planned.original.pairs}
            told = tuple(_with_reason(line, reasons) for line in found.findings)
            return freed, replace(found, findings=(*told, f"{told_how}, {_FOUND}"))
    return lifted, planned


def _candidates(lifted: Lifted, planned: Planned, states: Mapping[str, str]) -> Iterator[tuple[ModelProto, Axes, str]]:
    """Yield models with the axes that may be the batch, and what was done to them."""
    for axes in _guesses(lifted.model, lifted.options, list(states)):
        yield inlined(lifted.model), axes, _OPENED
    if states and not planned.plan.native_time:
        found = steps_as_rows(inlined(lifted.model), lifted.options, states, BATCH)
        if found is not None:
            yield *found, _STEPS_AS_ROWS


def _with_reason(line: str, reasons: dict[str, str]) -> str:
    for source, reason in reasons.items():
        if line.startswith(f"state {source} ← "):
            return line.replace("given by --state", reason)
    return line


def _guesses(model: ModelProto, options: AdoptOptions, states: list[str]) -> Iterator[Axes]:
    """Yield axes of size 1 that may be the batch, one for each input: the likely one of states, each of the data."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    ones: dict[str, list[int]] = {}
    for value in model.graph.input:
        if value.name not in defaults and value.name not in options.constants:
            dims = value.type.tensor_type.shape.dim
            ones[value.name] = [axis for axis, dim in enumerate(dims) if dim.dim_value == 1]
            if value.name in options.batch_axes:
                ones[value.name] = [options.batch_axes[value.name]]
    if not all(ones.values()):
        return
    starts = {name for node in model.graph.node if node.op_type in RECURRENT for name in node.input[5:7]}
    data = [name for name in ones if name not in states]
    seen: list[Axes] = []
    for state_at in (0, -1):
        for data_at in (0, -1):
            axes = {name: ones[name][data_at] for name in data}
            axes |= {name: 1 if name in starts and 1 in ones[name] else ones[name][state_at] for name in states}
            if axes not in seen:
                seen.append(axes)
                yield axes


def opened(model: ModelProto, options: AdoptOptions, axes: Axes, symbol: str, size: int = 1) -> ModelProto | None:
    """Return the model with these axes, all of one fixed size, open and named; None where a node does not allow it.

    With the size that was fixed it gives what it gave.

    Raises:
        RunFailedError: It does not run.
    """
    wide = ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for value in wide.graph.input:
        if value.name in axes:
            value.type.tensor_type.shape.dim[axes[value.name]].dim_param = symbol
    for value in wide.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value == size:
                dim.dim_param = f"?:{value.name}:{axis}"
    tracer = Tracer(model, options)
    feeds = tracer.draw(_sizes(tracer, symbol, size))
    single = tracer.run(feeds)

    def is_right(found: ModelProto) -> bool:
        values = Tracer(found, options).run(feeds)
        return all(Figure.of(values[v.name], single[v.name]).error <= _TOLERANCE for v in model.graph.output)

    names = [next(filter(None, node.output)) for node in wide.graph.node if node.op_type in OPENED]
    return _Search(options, single, is_right, symbol, size).open_nodes(wide, names)


@dataclass(slots=True)
class _Search:
    """Opens one node after another, and returns to an earlier choice where a later node does not run on several rows.

    `single` are all values of a run in which the axis `symbol` has the size that was fixed, `size`; `left` is how often
    it may still return.
    """

    options: AdoptOptions
    single: Values
    is_right: Callable[[ModelProto], bool]
    symbol: str
    size: int
    left: int = _MOST_RETURNS

    def open_nodes(self, model: ModelProto, names: Sequence[str]) -> ModelProto | None:
        """Open the nodes that make these values, and return the model, which is changed; None if one cannot be opened.

        Raises:
            RunFailedError: A node does not run on several rows, and there is no other choice before it.
        """
        for at, name in enumerate(names):
            index = next(index for index, node in enumerate(model.graph.node) if name in node.output)
            ways = ways_to_open(model, index, self.single, self._wide(model, index), _ROWS)
            if not ways:
                return None
            for way in ways[:-1]:
                tried = ModelProto()
                tried.CopyFrom(model)
                found = self._tried(tried, way, names[at + 1 :])
                if found is not None:
                    return found
            self._write(model, ways[-1])
        self._wide(model, len(model.graph.node))
        return model if self.is_right(model) else None

    def _tried(self, model: ModelProto, way: Way, names: Sequence[str]) -> ModelProto | None:
        if self.left == 0:
            return None
        self._write(model, way)
        try:
            found = self.open_nodes(model, names)
        except RunFailedError:
            found = None
        self.left -= found is None
        return found

    def _write(self, model: ModelProto, way: Way) -> None:
        if way is not as_it_is:
            way(model)
            _place_nodes(model)

    def _wide(self, model: ModelProto, index: int) -> Values:
        """Return the values before a node in a run on several rows."""
        part = ModelProto()
        part.CopyFrom(model)
        del part.graph.node[index:]
        del part.graph.output[:]
        given = [value.name for value in part.graph.input]
        part.graph.node.append(helper.make_node("Identity", [given[0]], ["cellstream_read"]))
        tracer = Tracer(part, self.options)
        return tracer.run(tracer.draw(_sizes(tracer, self.symbol, _ROWS * self.size)))


def _sizes(tracer: Tracer, symbol: str, size: int) -> dict[str, int]:
    """Return all open sizes: that of the axis that is opened, and for others one that is not taken for it."""
    sizes = {dim: _STEPS for dims in tracer.ports.values() for dim in dims if isinstance(dim, str)}
    return sizes | {symbol: size}


def _place_nodes(model: ModelProto) -> None:
    """Put every node behind those that compute what it reads; those that stand right keep their sequence."""
    graph = model.graph
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    makers = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    placed: dict[int, NodeProto] = {}
    entered = set[int]()
    waiting = list(range(len(nodes)))[::-1]
    while waiting:
        at = waiting[-1]
        missing = [makers[name] for name in reads(nodes[at]) if makers.get(name, at) not in placed and name in makers]
        missing = [maker for maker in missing if maker not in entered and maker != at]
        if at in placed or not missing:
            placed[at] = nodes[at]
            waiting.pop()
        else:
            entered.add(at)
            waiting += missing
    del graph.node[:]
    graph.node.extend(placed.values())
