"""Each comparison alone finds a graph that is wrong in what it looks at, and passes the right one."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from export import verify
from export.arena_graph import build_arena_graph
from export.cards import network_card
from export.comparisons import BATCHES, LENGTHS, SINGLE_LENGTHS, STRANGERS, Comparison, comparisons_of
from export.errors import ParityError
from export.network_reference import BatchNetworkReference, NetworkReference
from models.card import ModelCard
from tests.export.networks import make_network

BATCH = ["whole_sequence", "one_step_at_a_time", "random_chunks", "ragged_batch", "initial_state"]
SINGLE = ["one_step_at_a_time", "whole_sequence", "random_chunks", "steps_with_strangers", "chunks_with_strangers"]
IN_CHUNKS = {"one_step_at_a_time", "random_chunks", "steps_with_strangers", "chunks_with_strangers"}


def change(model: ModelProto, name: str, *nodes: tuple[str, list[str]]) -> None:
    """Put nodes after the one that computes `name`; they read `right`, and the last one gives `name`."""
    (maker,) = (node for node in model.graph.node if name in node.output)
    maker.output[list(maker.output).index(name)] = "right"
    outputs = [*(f"changed_{index}" for index in range(len(nodes) - 1)), name]
    at = list(model.graph.node).index(maker) + 1
    for index, ((op, inputs), output) in enumerate(zip(nodes, outputs, strict=True)):
        model.graph.node.insert(at + index, helper.make_node(op, inputs, [output]))


def constant(model: ModelProto, name: str, value: float) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))


def wrong_output(model: ModelProto) -> None:
    """Give one thousandth more."""
    constant(model, "factor", 1.001)
    change(model, "y", ("Mul", ["right", "factor"]))


def not_finite(model: ModelProto) -> None:
    """Give NaN."""
    constant(model, "nan", np.nan)
    change(model, "y", ("Add", ["right", "nan"]))


def infinite(model: ModelProto) -> None:
    """Give infinity, which would make any difference from it infinite as well."""
    constant(model, "infinity", np.inf)
    change(model, "y", ("Add", ["right", "infinity"]))


def wrong_infinity(model: ModelProto) -> None:
    """Give infinity of both signs in turn beside a wrong output, of which the scale would be infinite."""
    constant(model, "factor", 1.001)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, -np.inf, 0], np.float32), "mask"))
    change(model, "y", ("Mul", ["right", "factor"]), ("Add", ["changed_0", "mask"]))


def wrong_state(model: ModelProto) -> None:
    """Give the right outputs and store a wrong row."""
    constant(model, "factor", 1.001)
    (scatter,) = (node for node in model.graph.node if "arena_out.layer0.h" in node.output)
    at = list(model.graph.node).index(scatter)
    model.graph.node.insert(at, helper.make_node("Mul", [scatter.input[2], "factor"], ["wrong_rows"]))
    model.graph.node[at + 1].input[2] = "wrong_rows"


def state_forgotten(model: ModelProto) -> None:
    """Read the initial row whatever slot is asked for."""
    (reader,) = (node for node in model.graph.node if "read_slots" in node.input)
    reader.input[0] = "slot_0"
    model.graph.node.insert(0, helper.make_node("Sub", ["read_slots", "read_slots"], ["slot_0"]))


def lengths_ignored(model: ModelProto) -> None:
    """Run every row to the end of the chunk."""
    (reader,) = (node for node in model.graph.node if "lengths" in node.input)
    reader.input[0] = "longest"
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["lengths"], ["longest_one"], keepdims=0))
    model.graph.node.insert(1, helper.make_node("Shape", ["lengths"], ["rows"]))
    model.graph.node.insert(2, helper.make_node("Expand", ["longest_one", "rows"], ["longest"]))


def rows_mixed(model: ModelProto) -> None:
    """Let the largest row of a batch reach the others; alone, a row is right."""
    constant(model, "little", 0.01)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first_axis"))
    change(
        model,
        "y",
        ("ReduceMax", ["right", "first_axis"]),
        ("Sub", ["changed_0", "right"]),
        ("Mul", ["changed_1", "little"]),
        ("Add", ["right", "changed_2"]),
    )


def compare_by(name: str, model: ModelProto, monkeypatch: pytest.MonkeyPatch, *, batch: bool) -> float:
    """Compare a graph by one comparison alone."""
    network = make_network(num_layers=1)

    def only(reference: object, card: ModelCard) -> dict[str, Comparison]:
        return {name: comparisons_of(made, card)[name]}

    monkeypatch.setattr(verify, "comparisons_of", only)
    random = np.random.default_rng(0)
    made = BatchNetworkReference(network, random) if batch else NetworkReference(network, random)
    card = network_card(network, "m", 1)
    return verify.compare(made, model.SerializeToString(), card, tolerance=1e-5, random=random).errors[name]


CASES = [(name, batch) for batch, names in ((True, BATCH), (False, SINGLE)) for name in names]
MUTANTS: dict[Callable[[ModelProto], None], set[str]] = {
    wrong_output: {*BATCH, *SINGLE},
    not_finite: {*BATCH, *SINGLE},
    infinite: {*BATCH, *SINGLE},
    wrong_infinity: {*BATCH, *SINGLE},
    wrong_state: {*BATCH, *SINGLE},
    state_forgotten: {*IN_CHUNKS, "initial_state"},
    lengths_ignored: {"ragged_batch"},
    rows_mixed: {*BATCH, "steps_with_strangers", "chunks_with_strangers"},
}


@pytest.mark.parametrize(("name", "batch"), CASES)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_comparison_alone_finds_a_wrong_graph(
    mutant: Callable[[ModelProto], None], name: str, batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused by name where the comparison looks at what is wrong, and passes where it does not."""
    model = build_arena_graph(make_network(num_layers=1))
    assert compare_by(name, model, monkeypatch, batch=batch) < 1e-5
    mutant(model)
    finds = name in MUTANTS[mutant] and not (mutant is rows_mixed and not batch and "strangers" not in name)
    if not finds:
        assert compare_by(name, model, monkeypatch, batch=batch) < 1e-5
        return
    with pytest.raises(ParityError, match=name):
        compare_by(name, model, monkeypatch, batch=batch)


def test_the_sizes_that_are_compared() -> None:
    """Every comparison of batches runs all lengths and batch sizes; one at a time, all lengths and all strangers."""
    network = make_network()
    card = network_card(network, "m", 1)
    random = np.random.default_rng(0)
    batches = comparisons_of(BatchNetworkReference(network, random), card)
    assert list(batches) == BATCH
    assert {(one.lengths, one.batches) for one in batches.values()} == {(LENGTHS, BATCHES)}
    assert (LENGTHS, BATCHES) == ((1, 2, 7, 50), (1, 3, 33))
    singles = comparisons_of(NetworkReference(network, random), card)
    assert list(singles) == SINGLE
    assert {(one.lengths, one.batches) for one in singles.values()} == {(SINGLE_LENGTHS, (1,)), ((6,), STRANGERS)}
    assert (SINGLE_LENGTHS, STRANGERS) == ((1, 2, 7, 24), (2, 5, 33))


@pytest.mark.parametrize(("max_batch", "batches"), [(1, None), (3, (2, 3)), (8, (2, 5, 8)), (256, (2, 5, 33))])
def test_strangers_are_no_more_than_the_model_takes(max_batch: int, batches: tuple[int, ...] | None) -> None:
    """Batches follow from the card's max_batch; a model that takes one row has no comparison with strangers."""
    network = make_network()
    card = network_card(network, "m", 1, max_batch=max_batch)
    found = comparisons_of(NetworkReference(network, np.random.default_rng(0)), card)
    assert (found["steps_with_strangers"].batches if max_batch > 1 else None) == batches
    assert ("chunks_with_strangers" in found) == (max_batch > 1)


def test_a_model_that_cannot_stream_is_not_cut() -> None:
    """Sequences of a bidirectional network are compared whole."""
    network = make_network(bidirectional=True)
    reference = BatchNetworkReference(network, np.random.default_rng(0))
    assert set(comparisons_of(reference, network_card(network, "m", 1))) == set(BATCH) - IN_CHUNKS
