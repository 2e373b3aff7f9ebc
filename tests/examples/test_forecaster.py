from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples import series
from examples.forecaster import Recipe, forecast, train, train_or_load
from examples.series import Series

QUICK = Recipe(epochs=1, copies=2)


def test_training_uses_no_year_after_the_last(tmp_path: Path) -> None:
    """Two series that differ only after the last training year give the same network."""
    real = series.load()
    changed = Series(real.first_year, np.concatenate([real.span(1700, 1920), real.span(1921, 2008) * 3]))
    assert train(real, 1920, QUICK, progress=False).weights_sha256() == (
        train(changed, 1920, QUICK, progress=False).weights_sha256()
    )


def test_a_forecast_does_not_depend_on_its_own_year() -> None:
    """Changing the value of a year does not change the forecasts of that year and those before it."""
    real = series.load()
    values = real.values.copy()
    values[1950 - real.first_year] += 100
    network = train(real, 1920, QUICK, progress=False)
    before, after = forecast(network, real, 1921, 1960), forecast(network, Series(1700, values), 1921, 1960)
    assert before[: 1951 - 1921] == after[: 1951 - 1921]
    assert before[1951 - 1921] != after[1951 - 1921]


def test_the_same_recipe_is_trained_once(tmp_path: Path) -> None:
    """A checkpoint is reused for the same recipe and data, and trained again for others or when damaged."""
    checkpoint = tmp_path / "kept" / "net.safetensors"
    sunspots = series.load()

    def again(recipe: Recipe, last_year: int = 1920) -> tuple[str, bool]:
        network, fresh = train_or_load(sunspots, last_year, recipe, checkpoint, progress=False)
        return network.weights_sha256(), fresh

    first, fresh = again(QUICK)
    assert fresh
    assert again(QUICK) == (first, False)
    other, fresh = again(replace(QUICK, hidden_size=3))
    assert fresh
    assert other != first
    assert again(replace(QUICK, hidden_size=3), last_year=1919)[1]
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert again(replace(QUICK, hidden_size=3), last_year=1919)[1]


@pytest.mark.parametrize("metadata", ["", "[]", '{"recipe": {}}'])
def test_damaged_metadata_means_training_again(tmp_path: Path, metadata: str) -> None:
    """A checkpoint whose metadata file has no fingerprint is trained again."""
    checkpoint = tmp_path / "net.safetensors"
    train_or_load(series.load(), 1920, QUICK, checkpoint, progress=False)
    checkpoint.with_suffix(".json").write_text(metadata)
    assert train_or_load(series.load(), 1920, QUICK, checkpoint, progress=False)[1]
