"""The answers of the original model to whole sequences, each run alone and one step at a time."""

import numpy as np

from export.adopt.plan import Array
from export.adopt.planning import Planned
from export.adopt.probe import rows_of
from export.comparison import Sequence


class OriginalOracle:
    """Answers random sequences by the original file, in onnxruntime, states fed back by hand."""

    def __init__(self, planned: Planned) -> None:
        self._plan, self._original = planned.plan, planned.original

    def sequence(self, length: int) -> Sequence:
        """Draw one sequence and run it from the initial state; the states after every step go with it."""
        plan, original = self._plan, self._original
        states = original.start(1)
        inputs: dict[str, list[Array]] = {one.spec.name: [] for one in plan.inputs}
        outputs: dict[str, list[Array]] = {one.spec.name: [] for one in plan.outputs}
        for _ in range(length):
            drawn = original.draw(1)
            found, states = original.step(drawn, states)
            for one in plan.inputs:
                inputs[one.spec.name].append(drawn[one.name].reshape(one.spec.shape))
            for output in plan.outputs:
                outputs[output.spec.name].append(rows_of(found[output.name], output.layout)[0])
        after = {state.spec.name: states[state.source][0] for state in plan.states}
        after |= {one.overlap_state: states[one.name][0] for one in plan.inputs if one.overlap}
        return Sequence(
            {name: np.stack(values) for name, values in inputs.items()},
            {name: np.stack(values) for name, values in outputs.items()},
            after,
        )
