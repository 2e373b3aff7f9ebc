"""The sunspot forecaster: an LSTM that reads the value of a year and predicts the next year's."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from examples.series import FIRST_YEAR, Series
from models.network import CheckpointError, Network, NetworkConfig, Scaler
from models.training import FitConfig, Sequences, fit


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hold the hyperparameters of the forecaster and its training.

    The defaults were chosen by `python -m examples.selection`, which uses no year after 1920. The network is trained on
    `copies` of the series. Each copy has its own Gaussian noise on the inputs (standard deviation `noise`, in sunspots)
    and is multiplied by its own factor (between e^−spread and e^spread), since future cycles may be higher or lower
    than those in the data. With only about 200 steps of data, this and the small number of epochs prevent overfitting.
    The first `burn_in` years of a sequence build up the state and are left out of the loss.
    """

    hidden_size: int = 4
    epochs: int = 9
    learning_rate: float = 1e-2
    noise: float = 3.0
    spread: float = 0.25
    copies: int = 40
    batch_size: int = 1
    burn_in: int = 12
    seed: int = 1


def prepare(series: Series, last_year: int, recipe: Recipe) -> tuple[Network, Sequences]:
    """Return an untrained network and its training sequences, from the years up to and including `last_year` only."""
    values = torch.from_numpy(series.span(FIRST_YEAR, last_year).copy())
    scaler = Scaler(mean=(float(values.mean()),), std=(float(values.std()),))
    torch.manual_seed(recipe.seed)
    network = Network(
        NetworkConfig(
            cell="lstm",
            input_size=1,
            hidden_size=recipe.hidden_size,
            output_size=1,
            input_scaler=scaler,
            output_scaler=scaler,
            features=("this year",),
            units=("sunspots",),
            output_features=("next year",),
            output_units=("sunspots",),
            feedback=True,
        )
    )
    steps = len(values) - 1
    scale = torch.exp(recipe.spread * (2 * torch.rand(recipe.copies, 1, 1) - 1))
    noise = recipe.noise * torch.randn(recipe.copies, steps, 1)
    inputs = scale * (values[None, :-1, None] + noise)
    targets = scale * values[None, 1:, None]
    return network, Sequences(inputs, targets, recipe.burn_in)


def fit_config(recipe: Recipe, *, progress: bool) -> FitConfig:
    """Return the training options of a recipe."""
    return FitConfig(
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        progress=progress,
    )


def train(series: Series, last_year: int, recipe: Recipe, *, progress: bool = True) -> Network:
    """Return a network that was trained on the years up to and including `last_year` only."""
    network, sequences = prepare(series, last_year, recipe)
    fit(network, sequences, fit_config(recipe, progress=progress))
    return network


def forecast(network: Network, series: Series, first: int, last: int) -> list[float]:
    """Forecast each year from first to last, one year ahead, by one run of the network over the series."""
    values = torch.from_numpy(series.span(FIRST_YEAR, last - 1).copy())
    with torch.no_grad():
        y, _ = network(values[None, :, None])
    return [float(value) for value in y[0, first - FIRST_YEAR - 1 :, 0]]


def train_or_load(
    series: Series, last_year: int, recipe: Recipe, checkpoint: Path, *, progress: bool = True
) -> tuple[Network, bool]:
    """Return the forecaster, and whether it was trained now; a checkpoint of the same recipe and data is reused."""
    metadata = checkpoint.with_suffix(".json")
    fingerprint = _fingerprint(series, last_year, recipe)
    if _read_fingerprint(metadata) == fingerprint:
        try:
            return Network.load(checkpoint), False
        except CheckpointError:
            pass  # missing or damaged: train again
    network = train(series, last_year, recipe, progress=progress)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    metadata.unlink(missing_ok=True)
    network.save(checkpoint)
    metadata.write_text(json.dumps({"fingerprint": fingerprint, "recipe": asdict(recipe)}, indent=2) + "\n")
    return network, True


def with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """Return the recipe with this number of epochs, or unchanged if it is None."""
    return recipe if epochs is None else replace(recipe, epochs=epochs)


def _fingerprint(series: Series, last_year: int, recipe: Recipe) -> str:
    digest = hashlib.sha256(json.dumps([asdict(recipe), last_year], sort_keys=True).encode())
    digest.update(series.span(FIRST_YEAR, last_year).tobytes())
    return digest.hexdigest()


def _read_fingerprint(metadata: Path) -> str | None:
    try:
        found = json.loads(metadata.read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)
