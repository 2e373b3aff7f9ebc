"""The zoo: every foreign graph of these tests and what must become of it; python -m tests.export.catalogue shows it."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from rich.console import Console
from rich.table import Table

from export.adopt.errors import NotCausalError, WholeSequenceError
from tests.export.hidden_states import HIDDEN, Hidden
from tests.export.judged import ADOPTED, REFUSED, TOLERANCE, Judgement, Subject, judge
from tests.export.other_exporters import KERAS, KERAS_AHEAD, KERAS_WHOLE, SIMPLIFIED
from tests.export.refused_graphs import REFUSED as REFUSED_GRAPHS
from tests.export.test_fixed_batch import FRAMES
from tests.export.test_free_batch import DEPENDENT, INDEPENDENT
from tests.export.test_recurrent_layers import COUNTED, batch_major, counted
from tests.export.test_settling import broadcast, cache
from tests.export.torch_exports import TORCH
from tests.export.whole_sequences import AHEAD, WHOLE
from tests.export.zoo import ZOO, ForeignGraph, write

_HALF = 2e-2
_QUANTISED = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """A foreign graph, its kind, and what must become of it.

    `subject` writes what it needs to a folder. A refused one has the error's type and a pattern of its sentence.
    """

    kind: str
    subject: Callable[[Path], Subject]
    error: type[Exception] | None = None
    words: str = ""
    torch: bool = False


def _sure(subject: Subject) -> Callable[[Path], Subject]:
    return lambda folder: subject


def _hidden(kind: str, name: str, case: Hidden) -> Case:
    lengths = ("lengths",) if name == "lengths" else ()
    pairs = {"h0": "hn", "c0": "cn"} if "cn)" in case.text else {}
    return Case(kind, lambda folder: Subject(case.model(), {"x": case.axis}, pairs, lengths))


def _ahead(kind: str, case: Hidden, error: type[Exception]) -> Case:
    return Case(kind, lambda folder: Subject(case.model(), {"x": case.axis}), error, case.added[0])


def _shown(name: str, graph: ForeignGraph) -> Case:
    model = graph.model()
    axes = {}
    if graph.native:
        data = model.graph.input[0]
        dims = [dim.dim_param for dim in data.type.tensor_type.shape.dim]
        axes = {data.name: next(axis for axis, dim in enumerate(dims) if dim in ("t", "frames", "b"))}
    tolerance = _HALF if graph.half else TOLERANCE
    return Case("states shown", _sure(Subject(model, axes, graph.states, (), graph.options, tolerance)))


def _torch(name: str, exporter: str) -> Case:
    case = TORCH[name]
    return Case(
        f"torch, {exporter}", lambda folder: Subject(case.exported(exporter, folder), {"x": case.axis}), torch=True
    )


def _frames(text: str, features_first: bool) -> Subject:
    model = ForeignGraph(text, {}, {}, weights={"W": (1, 12, 3), "R": (1, 12, 4)}).model()
    return Subject(model, {"x": 2 if features_first else 1}, {"h_in": "h_out"})


def _counted(name: str) -> Subject:
    return Subject(counted(*COUNTED[name]), {"x": 0}, {"h0": "hn"}, ("lens",))


def _with_default(value: float) -> Subject:
    model = ZOO["time_first_batch_second"].model()
    for name in ("h0", "c0"):
        start = np.full((1, 1, 5), value) * np.linspace(-1, 1, 5)
        model.graph.initializer.append(numpy_helper.from_array(start.astype(np.float32), name))
    return Subject(model, {"x": 0}, {"h0": "hn", "c0": "cn"})


def _quantised(folder: Path) -> Subject:
    plain = TORCH["lstm"].exported("script", folder)
    quantize_dynamic(write(plain, folder / "plain.onnx"), folder / "int8.onnx", op_types_to_quantize=["LSTM"])
    model = ModelProto.FromString((folder / "int8.onnx").read_bytes())
    return Subject(model, {"x": 1}, {}, (), {"tolerance": 0.05}, _QUANTISED, plain)


_SIBLINGS = """net (float[batch,3] x, float[batch,3] p_km1, float[batch,3] q_km1, float[batch,2] r_km1)
    => (float[batch,3] y, float[batch,3] p_k, float[batch,3] q_k, float[batch,2] r_k)
    { half = Constant <value = float {0.5}> ()  p = Mul (p_km1, half)  p_k = Add (p, x)
      q = Neg (q_km1)  q_less = Mul (q, half)  q_k = Add (q_less, p_k)  r_less = Mul (r_km1, half)
      one = Constant <value = int64[1] {1}> ()  m = ReduceMean <axes = [1], keepdims = 1> (x)  r_k = Add (r_less, m)
      sum = ReduceSum <keepdims = 1> (r_k, one)  s = Add (p_k, q_k)  y = Add (s, sum) }"""
_MIXED = """net (float[batch,4] x, float[batch,4] h) => (float[batch,4] y, float[batch,4] h_out)
    { size = Abs (x)  top = ReduceMax <keepdims = 0> (size)  limit = Constant <value = float {50.0}> ()
      quiet = Less (top, limit)  zero = Constant <value = float {0.0}> ()  heard = Where (quiet, x, zero)
      half = Constant <value = float {0.5}> ()  kept = Mul (h, half)  h_out = Add (kept, heard)  y = Tanh (h_out) }"""


_JOINED = """net (float[batch,time,4] x) => (float[batch,time,5] y)
    { turned = Transpose <perm = [1, 0, 2]> (x)  Y = GRU <hidden_size = 5> (turned, W, R)
      shape = Constant <value = int64[3] {1, -1, 5}> ()  y = Reshape (Y, shape) }"""
_OVER_ROWS = """net (float[batch,4] x, float[2,batch,4] state) => (float[batch,4] y, float[2,batch,4] stateN)
    { half = Constant <value = float {0.5}> ()  less = Mul (state, half)  turned = Transpose <perm = [0, 2, 1]> (less)
      wide = Conv <pads = [2, 0]> (turned, K)  back = Transpose <perm = [0, 2, 1]> (wide)  stateN = Add (back, x)
      zero = Constant <value = int64 {0}> ()  y = Gather <axis = 0> (stateN, zero) }"""


def _others() -> Iterator[tuple[str, Case]]:
    for keep in (2, 5):
        options = {"sizes": {"past": 0}}
        yield (
            f"cache_of_the_newest_{keep}",
            Case("settling cache", _sure(Subject(cache(keep), {}, {"cache": "cache_next"}, (), options))),
        )
    yield (
        "broadcast_state",
        Case("broadcast state", _sure(Subject(broadcast("batch,c,w"), {}, {"r_in": "r_out"}))),
    )
    siblings = ForeignGraph(_SIBLINGS, {}, {}).model()
    pairs = {f"{name}_km1": f"{name}_k" for name in "pqr"}
    yield "sibling_states", Case("sibling states", _sure(Subject(siblings, {}, pairs)))
    mixed = ForeignGraph(_MIXED, {}, {}).model()
    yield "muted_beside_a_loud_row", Case("rows mixed", _sure(Subject(mixed, {}, {"h": "h_out"})))
    joined = ForeignGraph(_JOINED, {}, {}, weights={"W": (1, 15, 4), "R": (1, 15, 5)}).model()
    yield "shape_that_joins_rows_and_steps", Case("rows mixed", _sure(Subject(joined, {"x": 1})))
    over_rows = ForeignGraph(_OVER_ROWS, {}, {}, weights={"K": (4, 4, 3)}).model()
    yield "convolution_over_the_batch", Case("rows mixed", _sure(Subject(over_rows, {}, {"state": "stateN"})))
    for name, value in (("zeros", 0.0), ("values", 0.7)):
        yield f"default_of_{name}", Case("default-valued state", _sure(_with_default(value)))
    for operator in ("LSTM", "GRU", "RNN"):
        pairs = {"h0": "hn"} | ({"c0": "cn"} if operator == "LSTM" else {})
        yield f"layout_1_{operator.lower()}", Case("layout=1", _sure(Subject(batch_major(operator), {"x": 1}, pairs)))
    for name in COUNTED:
        yield f"lengths_{name.replace(' ', '_')}", Case("sequence_lens", _sure(_counted(name)))
    yield "quantised_lstm", Case("quantised", _quantised, torch=True)


NO_REFERENCE = ("scan_along_the_second_axis",)
"""Graphs that onnx.reference does not run: other tests hold them."""


def _cases() -> Iterator[tuple[str, Case]]:
    for name, graph in ZOO.items():
        yield name, _shown(name, graph)
    for name, case in HIDDEN.items():
        if name not in NO_REFERENCE:
            yield f"hidden_{name}", _hidden("states hidden", name, case)
    for kind, cases in (("keras", KERAS), ("simplified", SIMPLIFIED)):
        for name, case in cases.items():
            yield name, _hidden(kind, name, case)
    for kind, cases in (("fixed batch", INDEPENDENT), ("fixed batch, rows mixed", DEPENDENT)):
        for name, case in cases.items():
            pairs = {"h0": "hn"} if "h0" in case.text else {}
            yield name, Case(kind, _sure(Subject(case.model(), {"x": case.axis}, pairs)))
    for name, (text, features_first) in FRAMES.items():
        yield f"fixed_batch_{name.replace(' ', '_')}", Case("fixed batch", _sure(_frames(text, features_first)))
    yield from _others()
    for name, module in TORCH.items():
        for exporter in module.exporters:
            yield f"{name}_{exporter}", _torch(name, exporter)
    for name, case in (AHEAD | KERAS_AHEAD).items():
        yield f"ahead_{name}", _ahead("looks ahead", case, NotCausalError)
    for name, case in (WHOLE | KERAS_WHOLE).items():
        yield f"whole_{name}", _ahead("whole sequence", case, WholeSequenceError)
    for name, refused in REFUSED_GRAPHS.items():
        yield name, Case("refused", _sure(Subject(refused.model())), refused.error, refused.words)


CASES: dict[str, Case] = dict(_cases())


def judged(name: str, folder: Path) -> Judgement:
    """Return what became of a graph of the zoo."""
    return judge(CASES[name].subject(folder), folder)


def _row(name: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        found = judged(name, Path(folder))
    card = found.card
    states = "" if card is None else ", ".join(f"{one.name} {'×'.join(map(str, one.shape))}" for one in card.states)
    batch = "" if card is None else str(card.max_batch)
    return (
        name,
        CASES[name].kind,
        found.result if found.result != REFUSED else found.reason,
        states,
        batch,
        f"{found.error:.1e}" if found.result == ADOPTED else "",
    )


def main() -> None:
    """Print the zoo's table: each graph, what became of it, and its difference from its own run in float64."""
    table = Table(title=f"the zoo: {len(CASES)} graphs", title_justify="left")
    for column in ("graph", "kind", "result", "states", "max_batch", "difference"):
        table.add_column(column, overflow="fold", justify="right" if column in ("max_batch", "difference") else "left")
    console = Console()
    console.width = max(console.width, 120)
    with console.status("adopting") as status:
        for name in CASES:
            status.update(name)
            table.add_row(*_row(name))
    console.print(table)
    refused = sum(case.error is not None for case in CASES.values())
    console.print(f"{len(CASES) - refused} to be adopted, {refused} to be refused or asked about")


if __name__ == "__main__":
    typer.run(main)
