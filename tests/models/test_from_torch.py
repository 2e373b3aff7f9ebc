from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from models.cells import CELLS
from models.from_torch import NotLoadableError, load_torch_weights, network_from_torch, stack_from_torch
from models.stack import Stack

TORCH_MODULES: dict[str, Callable[..., nn.RNNBase]] = {
    "rnn_tanh": lambda **kw: nn.RNN(5, 8, **kw),
    "rnn_relu": lambda **kw: nn.RNN(5, 8, nonlinearity="relu", **kw),
    "lstm": lambda **kw: nn.LSTM(5, 8, **kw),
    "gru_reset_after": lambda **kw: nn.GRU(5, 8, **kw),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("name", TORCH_MODULES)
def test_a_loaded_stack_equals_the_torch_module(name: str, num_layers: int, bias: bool) -> None:
    """Outputs and states of a loaded stack are within 1e-6 of those of torch's module from non-zero states."""
    torch.manual_seed(3)
    module = TORCH_MODULES[name](num_layers=num_layers, bias=bias)
    stack = stack_from_torch(module)
    x = torch.randn(20, 3, 5)
    h, c = torch.randn(num_layers, 3, 8), torch.randn(num_layers, 3, 8)
    with torch.no_grad():
        wanted, last = module(x, (h, c) if name == "lstm" else h)
        carried = {"h": h, "c": c}
        names = [spec.name.split(".") for spec in stack.states]
        y, after = stack(x, {f"{layer}.{s}": carried[s][int(layer[5:])] for layer, s in names})
    last = dict(zip("hc", last if name == "lstm" else (last,), strict=False))
    torch.testing.assert_close(y, wanted, atol=1e-6, rtol=0)
    for layer, s in names:
        torch.testing.assert_close(after[f"{layer}.{s}"], last[s][int(layer[5:])], atol=1e-6, rtol=0)


def test_3801_steps_through_an_lstm_of_64_have_the_shapes_of_torch() -> None:
    """LSTM 1 → 64 → 1 over 3,801 steps returns 3,801 outputs, and h and c of shape (1, 1, 64), as torch does."""
    torch.manual_seed(0)
    lstm, linear = nn.LSTM(1, 64, 1), nn.Linear(64, 1)
    network = network_from_torch(lstm, linear)
    series = torch.tensor(np.linspace(0, 3801, 3801), dtype=torch.float32)
    with torch.no_grad():
        hidden, (h, c) = lstm(series.view(3801, 1, 1))
        wanted = linear(hidden).view(-1)
        y, state = network(series.view(1, 3801, 1))
    ours_h, ours_c = (torch.stack([state[f"layer0.{s}"]]) for s in "hc")
    assert y.view(-1).shape == (3801,)
    assert ours_h.shape == ours_c.shape == (1, 1, 64)
    for found, expected in ((y.view(-1), wanted), (ours_h, h), (ours_c, c)):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_state_dict_alone_can_be_loaded() -> None:
    """A state_dict loads into a stack of the same sizes without the module that it was saved from."""
    module = nn.GRU(5, 8, 2)
    stack = Stack([CELLS["gru_reset_after"](5, 8), CELLS["gru_reset_after"](8, 8)])
    load_torch_weights(stack, module.state_dict())
    x = torch.randn(4, 2, 5)
    torch.testing.assert_close(stack(x, stack.initial_state(2))[0], module(x)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.LSTM(5, 8, bidirectional=True), "bidirectional"),
        (nn.LSTM(5, 8, proj_size=3), "projection"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_refused(module: nn.RNNBase, sentence: str) -> None:
    """A bidirectional module or one with a projection is refused with the reason."""
    with pytest.raises(NotLoadableError, match=sentence):
        stack_from_torch(module)


def test_weights_that_do_not_fit_are_refused() -> None:
    """A weight that is missing, unexpected or of another shape is an error, so no stack is loaded in part unnoticed."""
    weights = nn.LSTM(5, 8, 2).state_dict()
    with pytest.raises(NotLoadableError, match=r"the stack has no parameter for.*weight_hh_l1"):
        load_torch_weights(Stack([CELLS["lstm"](5, 8)]), weights)
    with pytest.raises(NotLoadableError, match="weight_ih_l2"):
        load_torch_weights(Stack([CELLS["lstm"](5, 8), *(CELLS["lstm"](8, 8) for _ in range(2))]), weights)
    with pytest.raises(NotLoadableError, match="should be"):
        load_torch_weights(Stack([CELLS["lstm"](5, 9), CELLS["lstm"](9, 9)]), weights)
    with pytest.raises(NotLoadableError, match="GRUResetBefore"):
        load_torch_weights(Stack([CELLS["gru_reset_before"](5, 8)]), nn.GRU(5, 8).state_dict())


def test_a_head_of_another_width_is_refused() -> None:
    """A head whose input size differs from the output size of the module is refused."""
    with pytest.raises(NotLoadableError, match="reads 9"):
        network_from_torch(nn.LSTM(5, 8), nn.Linear(9, 1))
