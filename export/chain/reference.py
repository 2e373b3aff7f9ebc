"""The reference of a chain: its stages one after another, each by its original, one row and one step at a time."""

import numpy as np

from export.chain.errors import ChainError
from export.chain.stage import Stage
from export.chain.wiring import Port, Wiring
from export.errors import ExportError
from export.figure import Array
from export.reference import Answer, Rows
from models.card import TensorSpec

_TRIED_STEPS = 8


class ChainReference:
    """Draws sequences for a chain and answers them by its stages, without the chain's graph.

    Inputs are normal numbers, or numbers from 0 to 1 where those give nothing finite.

    Raises:
        ChainError: Neither does.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._random = np.random.default_rng(0)
        self._positive = False
        if not self._is_finite():
            self._positive = True
            if not self._is_finite():
                raise ChainError("the stages, run one after another, give no finite outputs on random inputs")

    def draw(self, length: int) -> Rows:
        """Return one random sequence."""
        return {spec.name: self._draw(spec, (1, length, *spec.shape)) for spec in self._wiring.inputs.values()}

    def answer(self, inputs: Rows) -> Answer:
        """Run one sequence from the initial states."""
        wiring = self._wiring
        for stage in wiring.stages:
            stage.runner.start()
        parts: dict[str, list[Array]] = {name: [] for name in wiring.outputs}
        for step in range(next(iter(inputs.values())).shape[1]):
            values = {Port("", name): rows[:, step] for name, rows in inputs.items()}
            for stage in wiring.stages:
                given = {spec.name: values[wiring.feeds[Port(stage.name, spec.name)]] for spec in stage.inputs}
                values |= {Port(stage.name, name): rows for name, rows in stage.runner.step(given).items()}
            for name, port in wiring.outputs.items():
                parts[name].append(values[port])
        outputs = {name: np.stack(rows, axis=1) for name, rows in parts.items()}
        return Answer(
            outputs,
            {f"{stage.name}.{name}": rows for stage in wiring.stages for name, rows in stage.runner.states.items()},
        )

    def _is_finite(self) -> bool:
        try:
            outputs = self.answer(self.draw(_TRIED_STEPS)).outputs
        except ExportError:
            if self._positive:
                raise
            return False
        return all(np.isfinite(rows).all() for rows in outputs.values() if rows.dtype.kind == "f")

    def _draw(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        if not spec.dtype.startswith("float"):
            return self._random.integers(0, spec.vocabulary or 2, shape).astype(spec.dtype)
        values: Array = self._random.random(shape) if self._positive else 0.5 * self._random.standard_normal(shape)
        mean, std = _scale(self._wiring.stages, self._wiring, spec.name)
        return (values * std + mean).astype(spec.dtype)


def _scale(stages: list[Stage], wiring: Wiring, name: str) -> tuple[Array | float, Array | float]:
    """Return the mean and the standard deviation that a stage expects of an input of the chain."""
    for stage in stages:
        for spec in stage.inputs:
            if wiring.feeds[Port(stage.name, spec.name)] == Port("", name) and spec.name in stage.scales:
                return stage.scales[spec.name]
    return 0.0, 1.0
