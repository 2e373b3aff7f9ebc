"""What a file carries over time inside becomes a state that is served, or nothing is written and the reason is told."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import quantize_dynamic

from export import ExportOptions
from export.adopt import AdoptOptions, adopt_model, lift_recurrent
from export.adopt.errors import NotCausalError, WholeSequenceError
from export.adopt.lift import lift_states
from export.arena_runner import INITIAL_SLOT, ArenaRunner
from export.artefact import read_card
from export.comparisons import LONG
from tests.export.hidden_states import HIDDEN, STEPS, Hidden
from tests.export.test_adopt import assert_refused, invoke
from tests.export.test_adopt_whole_sequence import difference, run
from tests.export.torch_exports import TORCH
from tests.export.whole_sequences import AHEAD, WHOLE
from tests.export.zoo import ZOO, write

_TOLERANCE = 1e-5


def streamed(artefact: Path, x: Any, axis: int) -> Any:
    """Return the first output, (time, *shape), of one sequence in chunks of 1 to 5 steps beside another sequence."""
    card = read_card(artefact)
    runner, random = ArenaRunner(artefact.read_bytes(), card, slots=8), np.random.default_rng(1)
    spec = card.inputs[0]
    mine = np.moveaxis(x, axis, 0).reshape(1, STEPS, *spec.shape)
    other = random.permutation(mine.reshape(-1)).reshape(mine.shape)
    rows = np.concatenate([other, mine])[-min(card.max_batch, 2) :]
    slots, start, outputs = np.full(len(rows), INITIAL_SLOT), 0, []
    while start < STEPS:
        stop = start + int(random.integers(1, 6))
        written = np.arange(len(rows)) + (2 if slots[0] != 2 else 4)
        found = runner.run({spec.name: rows[:, start:stop]}, slots, written)
        outputs.append(found[card.outputs[0].name][-1])
        slots, start = written, stop
    return np.concatenate(outputs)


def assert_served(model: ModelProto, x: Any, axis: int, folder: Path, whole: Any = None) -> Path:
    """Assert that a file is adopted and what is served equals its run over the whole sequence; return the artefact."""
    whole = run(model, {"x": x})["y"] if whole is None else whole
    artefact = adopt_model(write(model, folder / "foreign.onnx"), folder, "m", 1)
    found = streamed(artefact, x, axis)
    if whole.ndim > axis and whole.shape[axis] == STEPS:
        whole = np.moveaxis(whole, axis, 0)
    else:
        found = found[-1:]
    assert difference(found.reshape(whole.shape), whole) <= _TOLERANCE
    return artefact


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_state_is_streamed(name: str, tmp_path: Path) -> None:
    """A state that is no input, or only partly, is carried; the findings on the card name the node."""
    case = HIDDEN[name]
    model, x = case.model(), case.sequence()
    whole = reference(model, x) if name == "batch_first" else None  # onnxruntime has no layout 1
    if name == "lengths":
        whole = run(model, {"x": x, "lengths": np.full(1, STEPS, np.int32)})["y"]
    card = read_card(assert_served(model, x, case.axis, tmp_path, whole))
    added = [line.split()[1] for line in card.config["findings"] if "; added to the graph;" in line]
    assert tuple(added) == case.added
    assert (card.max_batch > 1) == case.batched
    assert any(case.added[0] in line for line in card.config["findings"] if not line.startswith("state "))


def reference(model: ModelProto, x: Any) -> Any:
    """Return y by onnx's own implementation, which shares nothing with onnxruntime."""
    outputs: Any = ReferenceEvaluator(model).run(["y"], {"x": x})
    return outputs[0]


def refuse(case: Hidden, folder: Path, words: str) -> None:
    file = write(case.model(), folder / "foreign.onnx")
    assert_refused(invoke("adopt", file, "--out", folder / "out/m/1"), folder, words)


@pytest.mark.parametrize("name", AHEAD)
def test_what_looks_ahead_is_refused(name: str, tmp_path: Path) -> None:
    """The sentence names the node and says how many steps it looks ahead, or that it needs the whole sequence."""
    refuse(AHEAD[name], tmp_path, rf"depends on later ones: {AHEAD[name].added[0]}\. Run it over whole sequences")


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_a_state_is_refused(name: str, tmp_path: Path) -> None:
    """What is carried over time and is no state of a fixed start is named, and nothing is written."""
    refuse(WHOLE[name], tmp_path, rf"run over the whole sequence .* differs .*{WHOLE[name].added[0]}")


def test_a_model_that_shows_its_states_stays_as_it_is() -> None:
    """Graphs that need no state are not rewritten, whatever they are made of."""
    for name, case in ZOO.items():
        model, options = case.model(), AdoptOptions.parse(**case.options)
        assert lift_states(model, options).model is model, name


def test_a_start_in_the_file_is_the_initial_state(tmp_path: Path) -> None:
    """The card holds the values from which the file's layer starts; the user may give others."""
    model = HIDDEN["one_row_in_the_file"].model()
    start = next(numpy_helper.to_array(one) for one in model.graph.initializer if one.name == "start").reshape(-1)
    card = read_card(adopt_model(write(model, tmp_path / "foreign.onnx"), tmp_path, "m", 1))
    assert [state.initial for state in card.states] == [tuple(start.tolist())] * 2
    lifted = lift_states(model, AdoptOptions(initial={"Y.h": np.zeros((1, 1, 5))}))
    assert lifted.options.initial["Y.h"].max() == 0
    assert lifted.options.initial["Y.c"].shape == (1, 1, 5)


def test_a_step_that_the_user_gives_is_no_sequence(tmp_path: Path) -> None:
    """With --step a layer runs inside each step from its own start, and nothing is added."""
    model = HIDDEN["absent"].model()
    options = AdoptOptions.parse(steps=["x=8x4"], batch_axes=["x:1"])
    lifted = lift_states(model, options)
    assert lifted.model is model
    assert not lifted.states


def test_findings_are_printed(tmp_path: Path) -> None:
    """The command prints a line for each node that is given a state."""
    findings: list[str] = []
    file = write(HIDDEN["convolution_and_layer"].model(), tmp_path / "foreign.onnx")
    adopt_model(file, tmp_path, "m", 1, ExportOptions(on_finding=findings.append))
    assert findings[:2] == [
        "Conv 'wide' reads steps before the one it answers: the 2 samples before are carried as wide.context, and "
        "start from 0",
        "LSTM 'Y' keeps a state that the file does not show: it is carried from step to step as Y.h and Y.c, and "
        "starts from zeros",
    ]


def test_swapped_states_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were h and c exchanged after a step, the comparison with the whole sequence would refuse the artefact."""
    monkeypatch.setattr(lift_recurrent, "_SLOTS", {"h": (5, 2), "c": (6, 1)})
    with pytest.raises(WholeSequenceError):
        adopt_model(write(HIDDEN["absent"].model(), tmp_path / "foreign.onnx"), tmp_path, "m", 1)
    assert not (tmp_path / "m").exists()


def test_a_quantised_layer_is_given_its_state(tmp_path: Path) -> None:
    """A layer that scales its inputs by the whole run's largest value keeps its state, and the card says what it is."""
    write(TORCH["lstm"].exported("script", tmp_path), tmp_path / "plain.onnx")
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "foreign.onnx", op_types_to_quantize=["LSTM"])
    card = read_card(adopt_model(tmp_path / "foreign.onnx", tmp_path, "m", 1))
    assert [state.name for state in card.states] == ["layer_LSTM_quant.h", "layer_LSTM_quant.c"]
    assert card.max_batch == 1
    assert "DynamicQuantizeLSTM" in card.config["quantised"]
    assert card.parity.steps == LONG


def test_an_error_of_a_model_that_looks_ahead_is_its_own(tmp_path: Path) -> None:
    """Callers can tell a model that looks ahead from one that differs for another reason."""
    file = write(AHEAD["one_step"].model(), tmp_path / "foreign.onnx")
    with pytest.raises(NotCausalError):
        adopt_model(file, tmp_path, "m", 1)


def test_the_original_is_named_on_the_card(tmp_path: Path) -> None:
    """The card's digest of the source is that of the file, not of the graph with added states."""
    models = [HIDDEN["absent"].model(), HIDDEN["absent"].model()]
    models[1].graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(models[1].graph.initializer[0]) * 2, "W")
    )
    digests = set()
    for number, model in enumerate(models, 1):
        path = adopt_model(write(model, tmp_path / f"{number}.onnx"), tmp_path, "m", number)
        digests.add(read_card(path).config["source_sha256"])
        assert onnx.load(tmp_path / f"{number}.onnx") == model
    assert len(digests) == 2
