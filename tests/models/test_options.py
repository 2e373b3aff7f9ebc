"""What makes no cell is refused when it is made, in a sentence, by the cell and by the network's configuration."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.cells import CELLS, register_cell
from models.cells.rnn import TanhRNN
from models.network import Network, NetworkConfig

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("clockwork_rnn", {"periods": (4, 2, 1, 8)}, "ascend"),
    ("clockwork_rnn", {"periods": (1, 1, 2, 4)}, "ascend"),
    ("clockwork_rnn", {"periods": (0, 1, 2, 4)}, "1 or more"),
    ("clockwork_rnn", {"periods": ()}, "at least 1 item"),
    ("clockwork_rnn", {"periods": (1, 2, 4)}, "does not divide into 3 clockwork groups"),
    ("clockwork_rnn", {"periods": (1, 2**31 - 1, 2**31, 2**31 + 1)}, "2³¹ steps"),
    ("peephole_lstm", {"peepholes": ""}, "without any peephole"),
    ("peephole_lstm", {"peepholes": "ii"}, "stands twice"),
    ("peephole_lstm", {"peepholes": "g"}, "'g' is none of them"),
    ("greff_nig", {"peepholes": "ifo"}, "has no input gate"),
    ("greff_nfg", {"peepholes": "f"}, "has no forget gate"),
    ("greff_nog", {"peepholes": "o"}, "has no output gate"),
    ("greff_cifg", {"peepholes": "fo"}, "forget gate is coupled"),
    ("greff_nfg", {"forget_bias": 1.0}, "forget_bias"),
    ("lstm_no_forget_gate", {"forget_bias": 1.0}, "forget_bias"),
    ("lstm", {"peepholes": "i"}, "peepholes"),
    ("lstm", {"forget_bias": float("nan")}, "finite"),
    ("attention_lstm", {"window": 0}, "greater than or equal to 1"),
    ("attention_lstm", {"attention_size": 0}, "greater than or equal to 1"),
    ("grid_lstm", {"blocks": 0}, "greater than or equal to 1"),
    ("grid_lstm", {"output": "other"}, "'paper' or 'standard'"),
    ("depth_gated_lstm", {"layers": 0}, "greater than or equal to 1"),
    ("projection_lstm", {"projection": 8}, "narrower than the hidden state"),
    ("projection_lstm", {"projection": 0}, "greater than or equal to 1"),
    ("ind_rnn", {"activation": "sigmoid"}, "'relu' or 'tanh'"),
    ("layer_norm_lstm", {"gain": 0.0}, "greater than 0"),
    ("attention_lstm", {"window": 10**18}, "less than or equal to 65536"),
    ("depth_gated_lstm", {"layers": 10**12}, "less than or equal to 1024"),
    ("grid_lstm", {"blocks": 10**12}, "less than or equal to 1024"),
]


@pytest.mark.parametrize(("cell", "options", "sentence"), REFUSED)
def test_options_that_make_no_cell_are_refused(cell: str, options: dict[str, Any], sentence: str) -> None:
    """The cell says what is wrong, and so does the configuration, before any weight is made."""
    with pytest.raises(ValueError, match=sentence):
        CELLS[cell](8, 8, **options)
    with pytest.raises(ValidationError, match=sentence):
        NetworkConfig(cell=cell, input_size=8, hidden_size=8, output_size=1, cell_options=options)


@pytest.mark.parametrize("cell", ["mut1", "mut2"])
def test_a_cell_that_adds_its_input_takes_one_as_wide_as_its_state(cell: str) -> None:
    """MUT1 and MUT2 with another input width are refused, in any layer."""
    with pytest.raises(ValueError, match="an input of 3 does not fit a hidden size of 8"):
        CELLS[cell](3, 8)
    with pytest.raises(ValidationError, match="equally wide"):
        NetworkConfig(cell=cell, input_size=3, hidden_size=8, output_size=1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"residual": True, "input_size": 3}, "layer 0 reads 3 values and gives 8"),
        ({"residual": True, "bidirectional": True}, "layer 0 reads 8 values and gives 16"),
        ({"residual": True, "cell": "projection_lstm"}, "layer 0 reads 8 values and gives 4"),
        ({"bidirectional": True, "feedback": True, "output_size": 8}, "no output can be fed back"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(fields: dict[str, Any], sentence: str) -> None:
    """A residual stack needs equal widths, and what reads whole sequences cannot feed back."""
    with pytest.raises(ValidationError, match=sentence):
        NetworkConfig.model_validate({"cell": "lstm", "input_size": 8, "hidden_size": 8, "output_size": 1, **fields})


def test_a_cell_of_ones_own_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever such a class raises, the configuration is refused in a sentence."""

    class Mine(TanhRNN):
        def __init__(self, input_size: int) -> None:
            super().__init__(input_size, input_size)

    monkeypatch.setattr("models.config.CELLS", CELLS | {"mine": Mine})
    with pytest.raises(ValidationError, match="no cell 'mine' can be made of these sizes and options"):
        NetworkConfig(cell="mine", input_size=3, hidden_size=8, output_size=1)


def test_a_residual_stack_adds_each_layers_input() -> None:
    """With cells that give zero, the stack is the identity; without the option it is zero."""
    torch.manual_seed(0)
    for residual in (True, False):
        config = NetworkConfig(
            cell="rnn_tanh", input_size=4, hidden_size=4, output_size=1, num_layers=3, residual=residual
        )
        stack = Network(config).stack
        for parameter in stack.parameters():
            torch.nn.init.zeros_(parameter)
        x = torch.randn(5, 2, 4)
        y, _ = stack(x, stack.initial_state(2))
        assert torch.equal(y, x if residual else torch.zeros_like(x))


def test_a_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell of one's own takes a free name; a taken name, a bad name or a class that is no cell is refused."""
    monkeypatch.setattr("models.cells.CELLS", table := dict(CELLS))

    class Mine(TanhRNN):
        pass

    register_cell("mine", Mine)
    register_cell("mine", Mine)
    assert table["mine"] is Mine
    with pytest.raises(ValueError, match="'lstm' is taken by LSTM"):
        register_cell("lstm", Mine)
    with pytest.raises(ValueError, match="cannot be a cell's name"):
        register_cell("Mine!", Mine)
    with pytest.raises(ValueError, match="cannot be a cell's name"):
        register_cell(None, Mine)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no subclass"):
        register_cell("other", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no subclass"):
        register_cell("other", torch.nn.LSTM)  # type: ignore[arg-type]
