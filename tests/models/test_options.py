"""Invalid options and sizes are refused, with the reason, by the cell and by the network's configuration."""

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
    ("peephole_lstm", {"peepholes": ""}, "needs a peephole on at least one gate"),
    ("peephole_lstm", {"peepholes": "ii"}, "is named twice"),
    ("peephole_lstm", {"peepholes": "g"}, "letters of i, f and o, got 'g'"),
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
    ("memory_attention_lstm", {"rows": 0}, "greater than or equal to 1"),
    ("memory_attention_lstm", {"row_size": 10**18}, "less than or equal to 1048576"),
    ("gru_reset_after", {"bias": "some"}, "valid boolean"),
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
def test_invalid_options_are_refused(cell: str, options: dict[str, Any], sentence: str) -> None:
    """The cell and the network's configuration both refuse invalid options, and say what is wrong."""
    with pytest.raises(ValueError, match=sentence):
        CELLS[cell](8, 8, **options)
    with pytest.raises(ValidationError, match=sentence):
        NetworkConfig(cell=cell, input_size=8, hidden_size=8, output_size=1, cell_options=options)


@pytest.mark.parametrize("cell", ["mut1", "mut2"])
def test_a_cell_that_adds_its_input_to_its_state_needs_equal_widths(cell: str) -> None:
    """MUT1 and MUT2 with different widths of input and state are refused, also as a layer of a network."""
    with pytest.raises(ValueError, match="an input size of 3 does not fit a hidden size of 8"):
        CELLS[cell](3, 8)
    with pytest.raises(ValidationError, match="must have the same width"):
        NetworkConfig(cell=cell, input_size=3, hidden_size=8, output_size=1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"residual": True, "input_size": 3}, "layer 0 reads 3 values and outputs 8"),
        ({"residual": True, "bidirectional": True}, "layer 0 reads 8 values and outputs 16"),
        ({"residual": True, "cell": "projection_lstm"}, "layer 0 reads 8 values and outputs 4"),
        ({"bidirectional": True, "feedback": True, "output_size": 8}, "its output cannot be fed back"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(fields: dict[str, Any], sentence: str) -> None:
    """A residual stack needs equal widths, and a bidirectional network cannot feed back its outputs."""
    with pytest.raises(ValidationError, match=sentence):
        NetworkConfig.model_validate({"cell": "lstm", "input_size": 8, "hidden_size": 8, "output_size": 1, **fields})


def test_a_user_defined_cell_that_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the constructor of a user-defined cell fails, the configuration is refused with a message that names it."""

    class Mine(TanhRNN):
        def __init__(self, input_size: int) -> None:
            super().__init__(input_size, input_size)

    monkeypatch.setattr("models.config.CELLS", CELLS | {"mine": Mine})
    with pytest.raises(ValidationError, match="the cell 'mine' cannot be built with these sizes and options"):
        NetworkConfig(cell="mine", input_size=3, hidden_size=8, output_size=1)


def test_a_residual_stack_adds_each_layers_input() -> None:
    """With cells whose output is zero, a residual stack is the identity, and a stack without the option gives zero."""
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
    """A user-defined cell can be registered; a name in use, an invalid name or a class that is no cell is refused."""
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
    with pytest.raises(ValueError, match="is not a subclass"):
        register_cell("other", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not a subclass"):
        register_cell("other", torch.nn.LSTM)  # type: ignore[arg-type]
