"""Choose the forecaster's hyperparameters by cross-validation on the training years, none of them after 1920.

Each fold trains on the years up to its origin and forecasts the 35 years after it. The score of a recipe is the mean
error over all folds and seeds, at the epoch where it is lowest.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from examples import series
from examples.baselines import REFERENCE_VARIANCE, average_relative_variance, fit_autoregression
from examples.forecaster import Recipe, fit_config, prepare
from examples.series import FIRST_YEAR, LAST_TRAINING_YEAR, Series
from models.training import Sequences, fit

HORIZON = 35
ORIGINS = (1780, 1815, 1850, 1885)
SEEDS = (0, 1, 2)
EPOCHS = 20


def candidates() -> Iterator[Recipe]:
    """Yield the recipes that are compared."""
    for hidden, noise, spread, rate in itertools.product((4, 8, 12), (3.0, 5.0, 8.0), (0.0, 0.25, 0.5), (5e-3, 1e-2)):
        yield Recipe(hidden_size=hidden, noise=noise, spread=spread, learning_rate=rate, epochs=EPOCHS)


def errors(recipe: Recipe, sunspots: Series, origin: int) -> NDArray[np.float64]:
    """Return the average relative variance on the years after `origin`, for each training epoch, (epochs,)."""
    last = origin + HORIZON
    assert last <= LAST_TRAINING_YEAR
    network, sequences = prepare(sunspots, origin, recipe)
    values = torch.from_numpy(sunspots.span(FIRST_YEAR, last).copy())[None, :, None]
    validation = Sequences(values[:, :-1], values[:, 1:], burn_in=origin - FIRST_YEAR)
    history = fit(network, sequences, fit_config(recipe, progress=False), validation)
    scaled = np.array(history.validation) * float(network.output_std) ** 2
    return scaled / REFERENCE_VARIANCE


def main() -> None:
    """Print the best candidates, best first, and the chosen recipe."""
    torch.set_num_threads(1)
    console = Console()
    sunspots = series.load()
    scored = []
    for recipe in track(list(candidates()), "comparing recipes", console=console):
        runs = np.array(
            [[errors(replace(recipe, seed=seed), sunspots, origin) for origin in ORIGINS] for seed in SEEDS]
        )  # (seeds, origins, epochs)
        epoch = int(runs.mean(axis=(0, 1)).argmin())
        seed = SEEDS[int(runs[:, :, epoch].mean(axis=1).argmin())]
        chosen = replace(recipe, epochs=epoch + 1, seed=seed)
        scored.append((float(runs[:, :, epoch].mean()), chosen, runs[:, :, epoch].mean(axis=0)))
    scored.sort(key=lambda row: row[0])
    table = Table("error", "recipe", *(f"{origin + 1}-{origin + HORIZON}" for origin in ORIGINS))
    table.add_row(*_linear_row(sunspots))
    for error, recipe, folds in scored[:12]:
        table.add_row(f"{error:.3f}", str(recipe), *(f"{fold:.3f}" for fold in folds))
    console.print(table)
    console.print(scored[0][1])


def _linear_row(sunspots: Series) -> list[str]:
    folds = []
    for origin in ORIGINS:
        linear = fit_autoregression(sunspots.span(FIRST_YEAR, origin), order=9)
        forecasts = linear.forecast(sunspots, origin + 1, origin + HORIZON)
        folds.append(average_relative_variance(forecasts, sunspots.span(origin + 1, origin + HORIZON)))
    return [f"{np.mean(folds):.3f}", "AR(9)", *(f"{fold:.3f}" for fold in folds)]


if __name__ == "__main__":
    main()
