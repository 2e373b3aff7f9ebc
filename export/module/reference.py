"""The user's own module as the reference, in float32 and, where it runs, in float64."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from export.figure import Array
from export.module.example import Example
from export.module.leaves import leaves_of
from export.module.outputs import ModuleOutput
from export.module.running import run_quietly
from export.reference import Answer, ExactAnswer, Rows
from export.roundings import roundings_of


class ModuleReference:
    """Answers a random sequence by one call of the module; outputs without a time axis, by a call for each step.

    `_exact` holds copies of the module in float64, the first as it is and the others with rounded weights; it is empty
    where the module does not run so.
    """

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[Example],
        outputs: Sequence[ModuleOutput],
        input_names: Sequence[str],
        output_names: Sequence[str],
    ) -> None:
        self._module, self._examples, self._outputs = module, dict(zip(input_names, examples, strict=True)), outputs
        self._output_names = output_names
        self._generator = torch.Generator().manual_seed(2)
        self._exact: list[nn.Module] = []
        with suppress(Exception):  # the user's code may raise anything
            exact = copy.deepcopy(module).double()
            self._exact = [exact, *roundings_of(exact)]

    @property
    def units(self) -> Mapping[str, Array]:
        """Return nothing: a module does not tell the units of its outputs."""
        return {}

    def draw(self, length: int) -> Rows:
        """Return one random sequence of each input."""
        drawn = {name: example.draw(1, length, self._generator) for name, example in self._examples.items()}
        return {name: x.select(self._examples[name].batch_axis, 0)[None].numpy() for name, x in drawn.items()}

    def answer(self, inputs: Rows) -> Answer:
        """Run one sequence from the module's own initial state; the states after it are not known."""
        return self._answer(self._module, inputs)

    def answer_exactly(self, inputs: Rows, states: Mapping[str, Array] | None = None) -> ExactAnswer | None:
        """Run one sequence in float64 from the module's own initial state; None where it does not run so."""
        if not self._exact:
            return None
        given = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in inputs.items()}
        try:
            exact, *rounded = (self._answer(one, given) for one in self._exact)
        except Exception:  # the user's code may raise anything: a tensor that it makes may be float32
            self._exact = []
            return None
        return ExactAnswer(exact, tuple(rounded)) if _is_float64(exact) else None

    def _answer(self, module: nn.Module, inputs: Rows) -> Answer:
        length = next(iter(inputs.values())).shape[1]
        given = [
            torch.from_numpy(inputs[name][0]).unsqueeze(example.batch_axis) for name, example in self._examples.items()
        ]
        whole = self._run(module, given, length)
        steps = []
        if not all(output.time for output in self._outputs):
            steps = [self._run(module, given, step + 1) for step in range(length)]
        axis = next(iter(self._examples.values())).batch_axis
        found = {}
        for name, output in zip(self._output_names, self._outputs, strict=True):
            if output.time:
                found[name] = whole[output.index].select(axis, 0)[None].numpy()
            else:
                found[name] = torch.stack([step[output.index][0] for step in steps])[None].numpy()
        return Answer(found, {})

    def _run(self, module: nn.Module, inputs: Sequence[Tensor], steps: int) -> list[Tensor]:
        given = [
            example.first_steps(x, steps).clone() for example, x in zip(self._examples.values(), inputs, strict=True)
        ]
        return [leaf.detach() for _, leaf in leaves_of(run_quietly(module, given))]


def _is_float64(answer: Answer) -> bool:
    """Return whether no output was cast to float32 on the way."""
    return all(values.dtype == np.float64 for values in answer.outputs.values() if values.dtype.kind == "f")
