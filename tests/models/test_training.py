import math
from typing import Literal

import pytest
import torch

from models import training
from models.network import Network, NetworkConfig, Scaler
from models.training import FitConfig, Sequences, evaluate, fit


def sine_task() -> tuple[Network, Sequences, Sequences]:
    torch.manual_seed(0)
    series = 50.0 + 20.0 * torch.sin(torch.arange(121) * 2 * math.pi / 11)
    x, y = series[:-1].view(1, 120, 1), series[1:].view(1, 120, 1)
    scaler = Scaler(mean=(50.0,), std=(14.0,))
    config = NetworkConfig(
        cell="lstm", input_size=1, hidden_size=8, output_size=1, input_scaler=scaler, output_scaler=scaler
    )
    return Network(config), Sequences(x[:, :80], y[:, :80]), Sequences(x, y, burn_in=80)


def test_fit_learns_and_keeps_the_best_weights() -> None:
    """Training lowers the validation loss, and the network keeps the weights with the lowest validation loss."""
    network, train, validation = sine_task()
    before = evaluate(network, validation, "mse")
    history = fit(network, train, FitConfig(epochs=60, learning_rate=2e-2, progress=False), validation)
    after = evaluate(network, validation, "mse")
    assert after < before / 5
    assert after == pytest.approx(min(history.validation), rel=1e-6)
    assert history.validation[history.best_epoch] == min(history.validation)
    assert not network.training


def test_the_same_seed_gives_the_same_weights() -> None:
    """Two fits with the same seed give the same weights."""
    digests = set()
    for _ in range(2):
        network, train, _ = sine_task()
        fit(network, train, FitConfig(epochs=3, progress=False, seed=4))
        digests.add(network.weights_sha256())
    assert len(digests) == 1


def test_tokens_train_with_cross_entropy_in_batches() -> None:
    """A network over a small vocabulary learns to predict the next token of a repeating sequence."""
    torch.manual_seed(1)
    ids = torch.arange(4).repeat(8).expand(6, -1)
    network = Network(NetworkConfig(cell="gru_reset_after", input_size=4, hidden_size=12, output_size=4, vocabulary=4))
    train = Sequences(ids[:, :-1], ids[:, 1:], burn_in=2)
    config = FitConfig(epochs=40, learning_rate=2e-2, loss="cross_entropy", batch_size=2, progress=False)
    history = fit(network, train, config)
    assert min(history.train) < 0.1
    assert (network(ids[:, :-1])[0][:, 2:].argmax(-1) == ids[:, 3:]).all()


def test_the_burn_in_is_left_out_of_the_loss() -> None:
    """Targets within the burn-in have no influence on the loss."""
    network, _, validation = sine_task()
    targets = validation.targets.clone()
    targets[:, : validation.burn_in] = 1e6
    changed = Sequences(validation.inputs, targets, validation.burn_in)
    assert evaluate(network, changed, "mse") == evaluate(network, validation, "mse")


def test_inconsistent_sequences_are_refused() -> None:
    """Inputs and targets must have the same batch and time, and a burn-in must leave at least one step."""
    x = torch.zeros(2, 5, 1)
    with pytest.raises(ValueError, match="differ in batch or time"):
        Sequences(x, x[:, :4])
    with pytest.raises(ValueError, match="leaves none of the 5 steps"):
        Sequences(x, x, burn_in=5)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    """Training that has diverged raises an error instead of keeping useless weights."""
    network, train, _ = sine_task()
    targets = torch.full_like(train.targets, float("nan"))
    with pytest.raises(FloatingPointError, match="learning rate"):
        fit(network, Sequences(train.inputs, targets), FitConfig(epochs=2, progress=False))


@pytest.mark.parametrize("ends", [KeyboardInterrupt, FloatingPointError, MemoryError])
def test_training_that_stops_keeps_the_best_weights(ends: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, a loss that is not finite and any other error leave the weights of the best epoch, in eval mode."""
    network, train, validation = sine_task()
    losses: list[float] = []
    digests: list[str] = []

    def watched(network: Network, sequences: Sequences, loss: Literal["mse", "cross_entropy"]) -> float:
        losses.append(evaluate(network, sequences, loss))
        digests.append(network.weights_sha256())
        if len(losses) > 5 and losses[-1] > min(losses):
            if ends is FloatingPointError:
                return math.nan
            raise ends
        return losses[-1]

    monkeypatch.setattr(training, "evaluate", watched)
    with pytest.raises(ends):
        fit(network, train, FitConfig(epochs=500, learning_rate=0.3, progress=False), validation)
    assert network.weights_sha256() == digests[losses.index(min(losses))] != digests[-1]
    assert not network.training
