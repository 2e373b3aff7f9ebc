"""The original file as the reference: each sequence alone and one step at a time."""

import numpy as np

from export.adopt.layout_search import rows_of
from export.adopt.planning import Planned
from export.figure import Array
from export.reference import Answer, Rows


class OriginalReference:
    """Answers random sequences by the original file, in onnxruntime, with its states fed back by hand."""

    def __init__(self, planned: Planned) -> None:
        self._plan, self._original = planned.plan, planned.original

    def draw(self, length: int) -> Rows:
        """Return one random sequence, drawn step by step."""
        steps = [self._original.draw(1) for _ in range(length)]
        return {
            one.spec.name: np.stack([step[one.name].reshape(one.spec.shape) for step in steps])[None]
            for one in self._plan.inputs
        }

    def answer(self, inputs: Rows) -> Answer:
        """Run one sequence from the initial state; the states after it are the original's and the overlaps."""
        plan, original = self._plan, self._original
        states = original.start(1)
        outputs: dict[str, list[Array]] = {one.spec.name: [] for one in plan.outputs}
        for step in range(next(iter(inputs.values())).shape[1]):
            given = {one.name: inputs[one.spec.name][0, step].reshape(1, *one.layout.inner) for one in plan.inputs}
            found, states = original.step(given, states)
            for output in plan.outputs:
                outputs[output.spec.name].append(rows_of(found[output.name], output.layout))
        after = {state.spec.name: states[state.source] for state in plan.states}
        after |= {one.overlap_state: states[one.name] for one in plan.inputs if one.overlap}
        return Answer({name: np.stack(values, axis=1) for name, values in outputs.items()}, after)
