"""A file that reads a state and gives only y: what the state is after a step becomes an output."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.adopt.errors import AdoptError
from tests.export.served import adopted, graph, reference, streamed

_WEIGHTS = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40), "V": (1, 15, 4), "Q": (1, 15, 5), "A": (1, 30), "M": (5, 2)}
_ONE = "one = Constant <value = int64[1] {1}> ()"
_ZERO = "zero = Constant <value = int64[1] {0}> ()"

READ = {
    "lstm": f"""net (float[t,n,4] x, float[1,n,5] h0, float[1,n,5] c0) => (float[t,n,5] y)
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)  {_ONE}  y = Squeeze (Y, one) }}""",
    "gru": f"""net (float[t,n,4] x, float[1,n,5] h0) => (float[t,n,5] y)
        {{ Y = GRU <hidden_size = 5> (x, V, Q, A, , h0)  {_ONE}  y = Squeeze (Y, one) }}""",
    "cell_only": f"""net (float[t,n,4] x, float[1,n,5] h0, float[1,n,5] c0) => (float[t,n,5] y, float[1,n,5] hn)
        {{ Y, hn = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)  {_ONE}  y = Squeeze (Y, one) }}""",
    "unsqueezed": f"""net (float[n,t,4] x, float[n,5] h0, float[n,5] c0) => (float[n,t,5] y)
        {{ {_ZERO}  h = Unsqueeze (h0, zero)  c = Unsqueeze (c0, zero)  major = Transpose <perm = [1, 0, 2]> (x)
          Y = LSTM <hidden_size = 5> (major, W, R, B, , h, c)  {_ONE}  s = Squeeze (Y, one)
          y = Transpose <perm = [1, 0, 2]> (s) }}""",
    "last_step": f"""net (float[n,t,4] x, float[n,1,5] h0) => (float[n,2] y)
        {{ {_ZERO}  h = Transpose <perm = [1, 0, 2]> (h0)  major = Transpose <perm = [1, 0, 2]> (x)
          Y, last = GRU <hidden_size = 5> (major, V, Q, A, , h)  s = Squeeze (last, zero)  y = MatMul (s, M) }}""",
}


@pytest.mark.parametrize("name", READ)
def test_a_state_that_is_only_read_is_carried(name: str, tmp_path: Path) -> None:
    """The inputs are states, clients send x, and what is served is onnx.reference's whole run from zeros."""
    model = graph(READ[name], **_WEIGHTS)
    artefact, card, findings = adopted(model, tmp_path)
    assert [spec.name for spec in card.inputs] == ["x"]
    assert {spec.name for spec in card.states} == {value.name for value in model.graph.input} - {"x"}
    assert any("the file does not give what it is after a step" in line for line in findings)
    assert card.max_batch > 1
    x = np.random.default_rng(2).normal(size=(21, 4)).astype(np.float32)
    feeds: dict[str, Any] = {"x": x[:, None] if "[t,n,4]" in READ[name] else x[None]}
    for value in model.graph.input[1:]:
        sizes = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = np.zeros(sizes, np.float32)
    whole = reference(model, feeds)["y"]
    found = streamed(artefact, {"x": x})["y"]
    np.testing.assert_allclose(found.reshape(-1)[-whole.size :], whole.reshape(-1), atol=1e-5)


def test_an_input_that_the_user_calls_no_state_stays_one(tmp_path: Path) -> None:
    """--state h0= says that clients send it."""
    with pytest.raises(AdoptError):
        adopted(graph(READ["lstm"], **_WEIGHTS), tmp_path, states=["h0="])
    artefact, card, _ = adopted(graph(READ["gru"], **_WEIGHTS), tmp_path, states=["h0="], frame_by_frame=True)
    assert [spec.name for spec in card.inputs] == ["x", "h0"]
    assert artefact.exists()
