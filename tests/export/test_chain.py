"""A chain of stages is one artefact that computes what they do one after another, or it is refused with a sentence."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner, Result

from benchmarks.cells.served import running_service
from export import ExportOptions, export_network
from export.__main__ import app
from export.adopt import AdoptOptions, adopt_model
from export.artefact import read_card
from export.chain import chain_models
from export.chain.graph import build_chained_graph
from export.chain.wiring import Wiring
from models.network import Network
from tests.export.networks import make_network
from tests.export.served import graph
from tests.export.zoo import write

FUNCTIONS = "tests.export.chain_functions"
STEPS = 60

_DECODER = """net (float[n,3] y, float[n,4] h) => (float[n,5] z, float[n,4] h_next)
    { a = MatMul (y, W)
      b = MatMul (h, U)
      c = Add (a, b)
      h_next = Tanh (c)
      z = MatMul (h_next, V) }"""
_COUNTS = """net (float[t,n,3] x, int32[n] lens) => (float[t,1,n,5] z)
    { z = LSTM <hidden_size = 5> (x, W, R, , lens) }"""
_WEIGHTS = {"W": (3, 4), "U": (4, 4), "V": (4, 5)}
_SHARES = """net (float[n,5] z) => (float[n,5] share)
    { share = Softmax <axis = 1> (z) }"""


def decoder() -> ModelProto:
    return graph(_DECODER, **_WEIGHTS)


def shares() -> ModelProto:
    """Return a file of an old opset."""
    model = graph(_SHARES)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 11))
    return model


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network(input_scaler={"mean": (20.0, -3.0), "std": (4.0, 0.5)})


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, network: Network) -> Path:
    """Make artefacts of a network and of a foreign file, and a file without state."""
    folder = tmp_path_factory.mktemp("stages")
    export_network(network, folder, "encoder", 1)
    file = write(decoder(), folder / "decoder.onnx")
    initial = folder / "initial.json"
    initial.write_text('{"h": [0.5, -0.25, 0.0, 1.0]}')
    options = AdoptOptions.parse(initial=initial)
    adopt_model(file, folder, "decoder", 1, ExportOptions(max_batch=64), adopt_options=options)
    write(shares(), folder / "shares.onnx")
    return folder


def chained(folder: Path, *sources: object, maps: tuple[str, ...] = (), **options: Any) -> tuple[Path, list[str]]:
    findings: list[str] = []
    told = ExportOptions(on_finding=findings.append, **options)
    return chain_models([str(one) for one in sources], folder, "chain", 1, told, maps=maps), findings


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, ["chain", *map(str, args)], env={"COLUMNS": "200"})


def in_float64(network: Network, x: np.ndarray) -> np.ndarray:
    """Run the network over a whole sequence in float64, and then the decoder by onnx.reference and a loop."""
    exact = make_network(input_scaler=network.config.input_scaler).double()
    state = {name: rows.double() for name, rows in network.initial_state(1).items()}
    with torch.no_grad():
        y, _ = exact(torch.from_numpy(x)[None].double(), state)
    rows = np.asarray(y[0].numpy())
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(float) for tensor in decoder().graph.initializer}
    file = ReferenceEvaluator(shares())
    h, found = np.array([0.5, -0.25, 0.0, 1.0]), []
    for row in rows:
        h = np.tanh(np.abs(row) @ weights["W"] + h @ weights["U"])
        z = h @ weights["V"]
        joined = 0.5 * z[:3] * np.sign(row)
        (share,) = file.run(None, {"z": z[None].astype(np.float32)})
        found.append(np.concatenate([joined, share[0]]))
    return np.array(found)


def test_four_stages_stream_through_the_service(network: Network, stages: Path, tmp_path: Path) -> None:
    """A network, a foreign file's artefact, functions and a file without state, chained, give what a loop does."""
    _, findings = chained(
        tmp_path,
        stages / "encoder/1",
        f"{FUNCTIONS}:split",
        stages / "decoder/1",
        f"{FUNCTIONS}:joined",
        stages / "shares.onnx",
        maps=("encoder.y=split.y", "split.size=decoder.y", "joined.y=out", "signal=encoder.x"),
    )
    card = read_card(tmp_path / "chain/1/model.onnx")
    assert card.max_batch == 64
    assert card.cell == "chained"
    assert [spec.name for spec in card.inputs] == ["signal"]
    assert {spec.name: spec.shape for spec in card.outputs} == {"out": (3,), "share": (5,)}
    assert [state.name for state in card.states] == [
        *(f"encoder.layer{layer}.{state}" for layer in (0, 1) for state in "hc"),
        "decoder.h",
    ]
    assert card.states[-1].initial == (0.5, -0.25, 0.0, 1.0)
    assert list(card.parity.errors) == [
        "one_step_at_a_time",
        "whole_sequence",
        "random_chunks",
        "steps_with_strangers",
        "chunks_with_strangers",
    ]
    assert "decoder.z → joined.z: float32[5], by their name" in findings
    random = np.random.default_rng(7)
    mean, std = np.array([20.0, -3.0]), np.array([4.0, 0.5])
    given = [(mean + std * random.standard_normal((STEPS, 2))).astype(np.float32) for _ in range(2)]
    found: list[list[np.ndarray]] = [[], []]
    with running_service(tmp_path) as client:
        sessions = [client.post("/v1/models/chain/sessions")["session_id"] for _ in given]
        start = 0
        while start < STEPS:
            length = int(random.integers(1, 9))
            for index, session in enumerate(sessions):
                chunk = given[index][start : start + length]
                answer = client.post(f"/v1/sessions/{session}/steps", {"inputs": chunk.tolist()})["outputs"]
                found[index].append(np.concatenate([answer["out"], answer["share"]], axis=1))
            start += length
    for x, parts in zip(given, found, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), in_float64(network, x), atol=1e-5)


def test_the_card_says_what_the_chain_is_made_of(stages: Path, tmp_path: Path) -> None:
    """The card has a digest of each stage and the connections; other connections give another digest of weights."""
    path, _ = chained(tmp_path, stages / "encoder/1", stages / "decoder/1", maps=("encoder.y=decoder.y",))
    card = read_card(path)
    encoder, made_of = read_card(stages / "encoder/1/model.onnx"), card.config["stages"]
    assert made_of["encoder"]["weights_sha256"] == encoder.weights_sha256
    assert made_of["decoder"]["artefact"] == "decoder/1"
    assert all(re.fullmatch("[0-9a-f]{64}", one["sha256"]) for one in made_of.values())
    assert card.config["connections"] == {"encoder.x": "x", "decoder.y": "encoder.y"}
    other, _ = chained(
        tmp_path / "other", stages / "encoder/1", stages / "decoder/1", maps=("encoder.y=decoder.y", "encoder.y=mid")
    )
    assert read_card(other).weights_sha256 != card.weights_sha256
    assert [spec.name for spec in read_card(other).outputs] == ["mid", "z"]


def test_a_chain_can_be_a_stage(stages: Path, tmp_path: Path) -> None:
    """A chain is an artefact like any other: its states keep their names behind that of its stage."""
    first, _ = chained(tmp_path, stages / "encoder/1", stages / "decoder/1")
    path, _ = chained(tmp_path / "outer", first.parent, stages / "shares.onnx", maps=("chain.z=shares.z",))
    assert read_card(path).states[-1].name == "chain.decoder.h"
    assert read_card(path).config["stages"]["chain"]["artefact"] == "chain/1"


def test_what_is_connected_is_no_state(stages: Path, tmp_path: Path) -> None:
    """A file whose input and output could be a state is asked about, unless its input is connected."""
    file = write(graph("net (float[n,3] v) => (float[n,3] v_out) { v_out = Tanh (v) }"), tmp_path / "curve.onnx")
    path, _ = chained(tmp_path, stages / "encoder/1", file, maps=("encoder.y=curve.v",))
    assert [spec.name for spec in read_card(path).outputs] == ["v_out"]
    two = """net (float[n,3] y, float[n,2] input_2) => (float[n,3] w, float[n,2] out_2)
        { w = Tanh (y)
          out_2 = Exp (input_2) }"""
    file = write(graph(two), tmp_path / "two.onnx")
    result = invoke(stages / "encoder/1", file, "--out", tmp_path / "out/m/1")
    assert result.exit_code == 1
    assert "adopt the file first, and chain that artefact" in result.stderr
    path, _ = chained(tmp_path / "said", stages / "encoder/1", file, maps=("more=two.input_2",))
    assert [spec.name for spec in read_card(path).inputs] == ["x", "more"]


def test_ids_that_a_stage_gives_are_warned_of(tmp_path: Path) -> None:
    """Ids below the size of a table that another stage computes get a warning; what lies beyond would fail a run."""
    text = """net (float[n,6] x) => (int64[n] ids)
        { ids = ArgMax <axis = 1, keepdims = 0> (x) }"""
    write(graph(text), tmp_path / "best.onnx")
    export_network(make_network(vocabulary=6), tmp_path, "speaker", 1)
    path, findings = chained(tmp_path, tmp_path / "best.onnx", tmp_path / "speaker/1", maps=("best.ids=speaker.x",))
    assert any(line.startswith("warning: speaker.x takes ids below 6") for line in findings)
    assert [spec.name for spec in read_card(path).inputs] == ["x"]


def test_the_precision_can_be_lowered(stages: Path, tmp_path: Path) -> None:
    """A chain is held in float16 as any artefact is, its stages without weights too; what is too coarse is refused."""
    sources = (stages / "encoder/1", stages / "decoder/1", stages / "shares.onnx")
    result = invoke(*sources, "--dtype", "float16", "--out", tmp_path / "half/1")
    assert result.exit_code == 0, result.output
    assert {state.dtype for state in read_card(tmp_path / "half/1/model.onnx").states} == {"float16"}
    result = invoke(*sources, "--dtype", "float16", "--tolerance", "1e-5", "--out", tmp_path / "exact/1")
    assert result.exit_code == 1
    assert "the comparison" in result.stderr
    assert not (tmp_path / "exact").exists()


def test_names_alone_connect_stages(stages: Path, tmp_path: Path) -> None:
    """Where a later stage takes what an earlier one gives by the same name, no --map is needed."""
    path, findings = chained(tmp_path, stages / "encoder/1", stages / "decoder/1", stages / "shares.onnx")
    assert "encoder.y → decoder.y: float32[3], by their name" in findings
    assert [spec.name for spec in read_card(path).outputs] == ["share"]


def test_stages_are_run_in_the_sequence_of_their_connections(stages: Path, tmp_path: Path) -> None:
    """A stage that is named before the one that feeds it is run after it."""
    sources = (stages / "shares.onnx", stages / "decoder/1", stages / "encoder/1")
    path, _ = chained(tmp_path, *sources, maps=("decoder.z=shares.z", "encoder.y=decoder.y"))
    assert [state.name for state in read_card(path).states][-1] == "decoder.h"


def test_an_input_can_feed_two_stages(stages: Path, tmp_path: Path) -> None:
    """Inputs that are given one name by --map get the same values; rows of both stages' states are kept apart."""
    path, _ = chained(
        tmp_path,
        f"{FUNCTIONS}:joined",
        f"b={stages / 'encoder/1'}",
        f"a={stages / 'encoder/1'}",
        maps=("signal=a.x", "signal=b.x", "a.y=joined.z", "b.y=joined.sign", "joined.y=out"),
    )
    card = read_card(path)
    assert [spec.name for spec in card.inputs] == ["signal"]
    assert {state.name.partition(".")[0] for state in card.states} == {"a", "b"}
    assert len(card.states) == 8


@pytest.mark.parametrize("function", ["loudest", "for_one_row"])
def test_rows_that_change_each_other_are_run_alone(function: str, stages: Path, tmp_path: Path) -> None:
    """A function over the whole batch, or made for one row, is served one row at a time, and the findings say so."""
    path, findings = chained(
        tmp_path, stages / "encoder/1", f"{FUNCTIONS}:{function}", maps=(f"encoder.y={function}.y", f"{function}.y=out")
    )
    card = read_card(path)
    if card.max_batch > 1:  # torch may trace a reshape for one row as one for any
        assert function == "for_one_row"
        return
    assert f"max_batch is 1, because it is that of {function}" in findings


def test_a_step_that_no_stage_gives_is_given(stages: Path, tmp_path: Path) -> None:
    """A function that clients feed has its shape by --step; without it the sentence says so."""
    sources = (f"{FUNCTIONS}:growing", f"{FUNCTIONS}:pair")
    arguments = [*sources, "--map", "growing.y=pair.y", "--map", "x=growing.y", "--out", tmp_path / "m/1"]
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "give it by --step growing.y=SIZE" in result.stderr
    result = invoke(*arguments, "--step", "growing.y=3")
    assert result.exit_code == 0, result.output
    card = read_card(tmp_path / "m/1/model.onnx")
    assert (card.inputs[0].shape, card.outputs[0].shape, card.states) == ((3,), (6,), ())


def swapped(model: ModelProto) -> None:
    """Let the encoder read h where it should read c, and the other way round."""
    names = {f"arena.encoder.layer0.{a}": f"arena.encoder.layer0.{b}" for a, b in ("hc", "ch")}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in names:
            node.input[0] = names[node.input[0]]


def doubled(model: ModelProto) -> None:
    """Feed the decoder values twice as large."""
    (node,) = [node for node in model.graph.node if "0/y" in node.input]
    node.input[:] = ["0/y/twice" if name == "0/y" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["0/y", "0/y"], ["0/y/twice"]))
    nodes = list(model.graph.node)
    first = next(index for index, one in enumerate(nodes) if "0/y" in one.output)
    nodes.insert(first + 1, nodes.pop(0))
    copies = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def started_elsewhere(model: ModelProto) -> None:
    """Write the decoder's state into the row that was read."""
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[0] == "write_slots":
            node.input[0] = "read_slots"


@pytest.mark.parametrize("fault", [swapped, doubled, started_elsewhere])
def test_a_chain_that_computes_something_else_is_not_written(
    fault: Callable[[ModelProto], None], stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two states that are swapped, a wrong connection, and a row written elsewhere each fail the comparison."""

    def wrong(wiring: Wiring) -> ModelProto:
        model = build_chained_graph(wiring)
        before = model.SerializeToString()
        fault(model)
        assert model.SerializeToString() != before
        return model

    monkeypatch.setattr("export.chain.pipeline.build_chained_graph", wrong)
    result = invoke(stages / "encoder/1", stages / "decoder/1", "--out", tmp_path / "out/m/1")
    assert result.exit_code == 1
    assert re.search(r"the comparison .* failed|a run changed slots", result.stderr), result.stderr
    assert not (tmp_path / "out").exists()


def test_an_existing_version_needs_force(stages: Path, tmp_path: Path) -> None:
    """A version that exists is kept, unless --force is given."""
    arguments = (stages / "encoder/1", stages / "decoder/1", "--out", tmp_path / "m/1")
    assert invoke(*arguments).exit_code == 0
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "not chained" in result.stderr
    assert "exists already" in result.stderr
    assert invoke(*arguments, "--force", "--max-batch", "7", "--description", "both").exit_code == 0
    card = read_card(tmp_path / "m/1/model.onnx")
    assert (card.max_batch, card.description) == (7, "both")


def test_the_help_has_an_example() -> None:
    """The help shows a whole command, and what is computed between two artefacts."""
    result = invoke("--help")
    assert result.exit_code == 0
    assert "python -m export chain artifacts/encoder/1 artifacts/decoder/1 --map encoder.y=decoder.x" in result.output


REFUSALS: dict[str, tuple[str, str, str]] = {
    "one_stage": ("{E}", "", "at least two stages"),
    "no_such_source": (
        "{E} nowhere/1",
        "",
        "nowhere/1 is neither a file, nor an artefact's folder, nor MODULE:FUNCTION",
    ),
    "an_empty_folder": ("{E} {empty}", "", "expected the folder of an artefact"),
    "one_name_twice": ("{E} {E}", "", "two stages would both be the stage 'encoder'.*encoder_2="),
    "an_unknown_stage": ("{E} {D}", "coder.y=decoder.y", "no stage 'coder', only encoder, decoder"),
    "an_unknown_output": ("{E} {D}", "encoder.z=decoder.y", "no output 'z' of encoder, only y"),
    "an_unknown_input": ("{E} {D}", "encoder.y=decoder.x", "no input 'x' of decoder, only y"),
    "an_unknown_output_served": ("{E} {D}", "encoder.q=mid", "no output 'q' of encoder, only y"),
    "an_unknown_output_left_out": ("{E} {D}", "encoder.q=", "no output 'q' of encoder, only y"),
    "no_map": ("{E} {D}", "encoder.y", "expected STAGE.OUTPUT=STAGE.INPUT"),
    "a_map_of_nothing": ("{E} {D}", "a=b", "neither of the two is a stage's input or output"),
    "a_bad_name": ("{E} {D}", "x y=encoder.x", "cannot be a name of the chain's"),
    "a_reserved_name": ("{E} {D}", "lengths=encoder.x", "'lengths' cannot be a name"),
    "fed_twice": ("{E} {D}", "encoder.y=decoder.y, x=decoder.y", "decoder.y is fed by encoder.y already"),
    "an_output_twice": ("{E} {D}", "encoder.y=o, decoder.z=o", "output o is encoder.y already"),
    "an_input_left_out": ("{E} {D}", "x=", "only a stage's output can be left out"),
    "served_and_left_out": ("{E} {D}", "decoder.z=o, decoder.z=", "another --map names it"),
    "a_longer_step": ("{E} {S}", "encoder.y=shares.z", r"encoder.y cannot feed shares.z: .*float32\[3\].*float32\[5\]"),
    "a_function_of_a_longer_step": (
        "{E} {f}:growing {D}",
        "encoder.y=growing.y, growing.y=decoder.y",
        r"growing.y cannot feed decoder.y: .*float32\[6\].*float32\[3\]",
    ),
    "another_dtype": (
        "{E} {f}:doubles {D}",
        "encoder.y=doubles.y, doubles.y=decoder.y",
        r"doubles.y cannot feed decoder.y: .*float64\[3\].*float32\[3\]",
    ),
    "a_circle": ("a={D} {f}:joined", "a.z=joined.z, joined.y=a.y", "in a circle, (a → joined → a|joined → a → joined)"),
    "a_stage_that_feeds_itself": ("{E} {D}", "encoder.y=encoder.x", "in a circle, encoder → encoder"),
    "inputs_of_one_name": ("{E} b={E}", "", "b.x would both be the input 'x'.*--map x=encoder.x --map x=b.x"),
    "inputs_of_one_name_and_another_step": ("{E} {D}", "x=encoder.x, x=decoder.y", r"float32\[2\].*float32\[3\]"),
    "outputs_of_one_name": ("{E} b={E}", "x=encoder.x, x=b.x", "encoder.y and b.y would both be the output 'y'"),
    "nothing_to_do_with_each_other": (
        "{E} b={E}",
        "x=encoder.x, x=b.x, b.y=z",
        "'encoder' and 'b' have nothing to do with each other",
    ),
    "an_input_and_an_output_of_one_name": ("{E} {D}", "decoder.z=x", "would both be the value 'x'"),
    "two_that_give_one_name": ("{E} b={E} {D}", "v=b.x", "encoder.y and b.y would both be the source of the input 'y'"),
    "a_stage_for_nothing": (
        "{E} {D} {f}:split",
        "encoder.y=split.y, split.size=, split.sign=",
        "'split' gives is used",
    ),
    "all_left_out": ("{E} {D}", "decoder.z=", "the chain would give nothing"),
    "a_file_with_a_state": ("{E} {decoder}", "", r"it has a state \(h\): make an artefact of it by adopt first"),
    "no_onnx_file": ("{E} {text}", "", "not a whole ONNX file"),
    "a_damaged_artefact": ("{E} {damaged}", "", "its bytes do not match|the file's bytes do not match its checksum"),
    "a_whole_sequence_model": ("both={both} {D}", "both.y=decoder.y", "runs whole sequences only"),
    "a_missing_module": ("{E} no_such_module:f", "", "no_such_module:f cannot be imported: ModuleNotFoundError"),
    "a_missing_function": ("{E} {f}:nothing", "", "nothing cannot be imported: AttributeError"),
    "a_class": ("{E} {f}:Weighted", "", "Weighted is no function"),
    "a_function_without_names": ("{E} {f}:anything", "", "must take its inputs as arguments with names"),
    "a_list": ("{E} {f}:listed", "encoder.y=listed.y", "it returns a list, and not a tensor, a dict"),
    "an_argument_unread": ("{E} {f}:forgetful", "encoder.y=forgetful.other", "depends on its argument 'other'"),
    "a_function_that_raises": (
        "{E} {f}:failing",
        "encoder.y=failing.y",
        "does not run on y .2, 3.: RuntimeError: no luck",
    ),
    "a_function_that_remembers": ("{E} {f}:remembering", "encoder.y=remembering.y", "the comparison .* failed"),
    "a_name_of_the_graph": (
        "{E} {f}:counted --step counted.read_slots=3",
        "encoder.y=counted.y",
        "--map NAME=counted.read_slots: it is needed, because 'read_slots'",
    ),
    "lengths_in_a_file": ("{E} {counts}", "encoder.y=counts.x", "it has a state"),
    "a_function_that_chooses": ("{E} {f}:branching", "encoder.y=branching.y", "torch cannot trace the function"),
}
"""Stages, connections → words of the sentence."""


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_chained_is_told(name: str, stages: Path, tmp_path: Path) -> None:
    """Bad input is one sentence and exit status 1, and nothing is written."""
    sources, maps, words = REFUSALS[name]
    files: dict[str, Any] = {"f": FUNCTIONS, "E": stages / "encoder/1", "D": stages / "decoder/1"}
    files |= {"S": stages / "shares.onnx", "decoder": stages / "decoder.onnx", "both": stages / "both/1"}
    files |= {name: tmp_path / f"{name}.onnx" for name in ("text", "damaged")} | {"empty": tmp_path / "empty"}
    files["empty"].mkdir()
    files["counts"] = write(graph(_COUNTS, W=(1, 20, 3), R=(1, 20, 5)), tmp_path / "counts.onnx")
    files["text"].write_text("no model")
    data = bytearray((stages / "decoder/1/model.onnx").read_bytes())
    data[-1] ^= 1
    files["damaged"].write_bytes(data)
    if "both" in sources and not files["both"].exists():
        export_network(make_network(bidirectional=True), stages, "both", 1)
    arguments = sources.format(**files).split(" ")
    for text in maps.split(", ") if maps else ():
        arguments += ["--map", text]
    result = invoke(*arguments, "--out", tmp_path / "out/m/1")
    assert result.exit_code == 1, result.output
    assert re.search(words, result.stderr), result.stderr
    assert result.stderr.startswith("not chained: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
