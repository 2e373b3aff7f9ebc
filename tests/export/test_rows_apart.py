"""Rows of a batch are proved apart on values that differ; a graph in which one row can change another runs one row."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

from export import ExportOptions
from export.adopt import adopt_model
from export.artefact import read_card
from export.candidate import Candidate
from export.errors import ParityError
from tests.export.zoo import ZOO, ForeignGraph, write


def graph(text: str, **weights: tuple[int, ...]) -> ModelProto:
    """Return a graph in ONNX's text format, its weights drawn from a fixed seed."""
    return ForeignGraph(text, {}, {}, weights=weights).model()


def step(nodes: str) -> str:
    """Return a graph of one step: nodes compute `m` from `x`, which is added to the state."""
    return f"""net (float[batch,4] x, float[batch,4] h) => (float[batch,4] y, float[batch,4] h_out)
        {{ half = Constant <value = float {{0.5}}> ()
          kept = Mul (h, half)
          {nodes}
          h_out = Add (kept, m)
          y = Tanh (h_out) }}"""


LOUDEST = "size = Abs (x)  loudest = ReduceMax <keepdims = 0> (size)"

# rows of one loudness do not influence each other in any of these
MIXING = {
    "80 dB below the loudest": f"""{LOUDEST}
        part = Constant <value = float {{0.0001}}> ()  floor = Mul (loudest, part)
        up = Greater (size, floor)  zero = Constant <value = float {{0.0}}> ()  m = Where (up, x, zero)""",
    "a floor under the logarithm": f"""{LOUDEST}
        part = Constant <value = float {{0.00001}}> ()  floor = Mul (loudest, part)
        one = Constant <value = float {{0.000001}}> ()  low = Max (floor, one)
        held = Max (size, low)  m = Log (held)""",
    "scaled where anything clips": f"""{LOUDEST}
        limit = Constant <value = float {{100.0}}> ()  over = Max (loudest, limit)
        gain = Div (limit, over)  m = Mul (x, gain)""",
    "muted where any row is silent": """size = Abs (x)
        axis = Constant <value = int64[1] {1}> ()
        energy = ReduceSum <keepdims = 1> (size, axis)  least = ReduceMin <keepdims = 0> (energy)
        tiny = Constant <value = float {0.0000001}> ()  silent = Less (least, tiny)
        zero = Constant <value = float {0.0}> ()  m = Where (silent, zero, x)""",
    "another branch where any value is huge": f"""{LOUDEST}
        limit = Constant <value = float {{1000.0}}> ()  far = Greater (loudest, limit)
        m = If (far) <
            then_branch = clip () => (float[batch,4] a) {{ a = Tanh (x) }},
            else_branch = keep () => (float[batch,4] b) {{ b = Identity (x) }}
        >""",
    "an int8 scale over all rows": """q, s, z = DynamicQuantizeLinear (x)  m = DequantizeLinear (q, s, z)""",
}


def adopted(model: ModelProto, folder: Path) -> tuple[Path, list[str]]:
    findings: list[str] = []
    file = write(model, folder / "foreign.onnx")
    return adopt_model(file, folder, "m", 1, ExportOptions(on_finding=findings.append)), findings


def run(model: ModelProto, x: Any, h: Any) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x, "h": h})[0]


@pytest.mark.parametrize("name", MIXING)
def test_rows_that_mix_for_extreme_values_run_one_at_a_time(name: str, tmp_path: Path) -> None:
    """A quiet row is changed by a loud one in onnxruntime itself, so the card says max_batch 1, and why."""
    model = graph(step(MIXING[name]))
    random = np.random.default_rng(0)
    rows = np.stack([scale * random.standard_normal(4) for scale in (1e-5, 0.5, 1e4, 0.0)]).astype(np.float32)
    states = np.zeros_like(rows)
    together = run(model, rows, states)
    alone = np.concatenate([run(model, rows[[row]], states[[row]]) for row in range(len(rows))])
    assert np.abs(together - alone).max() > 1e-6
    artefact, findings = adopted(model, tmp_path)
    card = read_card(artefact)
    assert card.max_batch == 1
    assert "max_batch is 1" in findings[-1]
    assert "depends on the other rows" in findings[-1]
    assert card.config["findings"][-1] == findings[-1]


APART = {
    "a maximum in each row": """size = Abs (x)
        axis = Constant <value = int64[1] {1}> ()
        top = ReduceMax <axes = [1], keepdims = 1> (size)
        part = Constant <value = float {0.0001}> ()  floor = Mul (top, part)
        up = Greater (size, floor)  zero = Constant <value = float {0.0}> ()  m = Where (up, x, zero)""",
    "a normalised row": "m = LayerNormalization <axis = 1> (x, scale)",
    "a product": "w = MatMul (x, W)  m = Tanh (w)",
    "what overflows": "m = Exp (x)",
    "what is not finite": "zero = Sub (x, x)  bad = Mul (zero, x)  m = Add (x, bad)",
}


@pytest.mark.parametrize("name", APART)
def test_rows_that_do_not_mix_run_together(name: str, tmp_path: Path) -> None:
    """Values far apart, also those at which a row's own result overflows, do not make rows of a sound graph one."""
    artefact, _ = adopted(graph(step(APART[name]), W=(4, 4), scale=(4,)), tmp_path)
    assert read_card(artefact).max_batch == 256


def test_a_state_that_mixes_over_the_batch_is_found(tmp_path: Path) -> None:
    """The maximum may be taken over states, which only loud inputs make large after a step."""
    text = """net (float[batch,4] x, float[batch,4] h) => (float[batch,4] y, float[batch,4] h_out)
        { h_out = Add (h, x)  size = Abs (h)  top = ReduceMax <keepdims = 0> (size)
          limit = Constant <value = float {1000.0}> ()  over = Max (top, limit)
          gain = Div (limit, over)  y = Mul (x, gain) }"""
    artefact, findings = adopted(graph(text), tmp_path)
    assert read_card(artefact).max_batch == 1
    assert "the output 'y'" in findings[-1]


def test_ids_that_mix_over_the_batch_are_found(tmp_path: Path) -> None:
    """Rows of token ids are run beside the first and the last id of their table."""
    text = """net (int64[batch] token, float[batch,4] h) => (float[batch,4] y, float[batch,4] h_out)
        { e = Gather (table, token)  last = Constant <value = int64 {6}> ()
          top = ReduceMax <keepdims = 0> (token)  is_last = Equal (top, last)
          zero = Constant <value = float {0.0}> ()  m = Where (is_last, zero, e)
          h_out = Add (h, m)  y = Tanh (h_out) }"""
    artefact, _ = adopted(graph(text, table=(7, 4)), tmp_path)
    assert read_card(artefact).max_batch == 1


def test_rows_that_fail_among_strangers_run_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed comparison with strangers is no refusal: one row is right, and the card says max_batch 1 and why."""
    verified = Candidate.verified

    def fail_among_strangers(self: Candidate, *arguments: Any) -> Candidate:
        if self.card.max_batch > 1:
            raise ParityError("steps_with_strangers", 0.5, 1e-5, "y", 1)
        return verified(self, *arguments)

    monkeypatch.setattr(Candidate, "verified", fail_among_strangers)
    artefact, findings = adopted(ZOO["fifo"].model(), tmp_path)
    card = read_card(artefact)
    assert card.max_batch == 1
    assert "steps_with_strangers" in findings[-1]
    assert card.config["findings"][-1] == findings[-1]


def test_any_other_failed_comparison_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row that differs by itself is wrong with any max_batch, and nothing is written."""

    def fail(self: Candidate, *arguments: Any) -> Candidate:
        raise ParityError("random_chunks", 0.5, 1e-5, "y", 1)

    monkeypatch.setattr(Candidate, "verified", fail)
    with pytest.raises(ParityError):
        adopted(ZOO["fifo"].model(), tmp_path)
    assert not (tmp_path / "m").exists()


def test_a_second_failure_with_one_row_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row is tried once, not for ever."""
    tried = tmp_path / "tried"

    def fail(self: Candidate, *arguments: Any) -> Candidate:
        with tried.open("a") as file:  # it runs in a process of its own
            file.write(f"{self.card.max_batch} ")
        raise ParityError("chunks_with_strangers", 0.5, 1e-5, "y", 1)

    monkeypatch.setattr(Candidate, "verified", fail)
    with pytest.raises(ParityError):
        adopted(ZOO["fifo"].model(), tmp_path)
    assert tried.read_text() == "256 1 "
