"""The runner refuses runs that would abort onnxruntime, finds rows that are not finite, and measures costs."""

import pytest

from service.app import Service
from service.engine.runner import Costs


def test_costs_tell_how_many_rows_and_steps_fit() -> None:
    """The rows and steps that fit a time are at least one, and more than one only if their run takes no longer."""
    costs = Costs(run=20e-6, step=3e-6, row=2e-6)
    assert costs.of(10, 5) == pytest.approx(20e-6 + 5 * 23e-6)
    for seconds in (1e-6, 1e-4, 2e-3):
        steps, rows = costs.steps_within(seconds, 4), costs.rows_within(seconds)
        assert steps == 1 or costs.of(4, steps) <= seconds
        assert rows == 1 or costs.of(rows, 1) <= seconds


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (-1, 1)])
async def test_an_empty_run_is_refused(service: Service, shape: tuple[int, int]) -> None:
    """A run without rows or without steps is refused, since onnxruntime would abort the process."""
    with pytest.raises(ValueError, match="at least one row and one step"):
        service.repository.find("lstm").runner.binding(*shape)


async def test_rows_that_are_not_finite_are_found(service: Service) -> None:
    """Exactly the rows with an output or a state that is not finite are reported."""
    engine = service.repository.find("explosive").runner
    binding = engine.binding(3, 1)
    binding.inputs[0][:] = 0
    binding.inputs[0][1] = 3e38
    binding.set_rows([0, 0, 0], [1, 1, 1], None)
    engine.run(binding)
    bad = binding.not_finite_rows()
    assert bad is not None
    assert bad.tolist() == [False, True, False]
    binding.inputs[0][:] = 0
    engine.run(binding)
    assert binding.not_finite_rows() is None


async def test_measured_costs_are_positive(service: Service) -> None:
    """The measured costs of every model are positive."""
    for model in service.repository.models.values():
        costs = model.batcher.costs
        assert min(costs.run, costs.row) > 0
        assert costs.step >= 0
