"""The user's own module as the reference, in float32 and, where it runs, in float64."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from export.figure import Array
from export.module.example import Example
from export.module.outputs import ModuleOutput
from export.module.reference import ModuleReference
from export.reference import Answer, ExactAnswer, Rows
from export.roundings import roundings_of


class ExactModuleReference(ModuleReference):
    """Answers by the module in float32, and by copies of it in float64."""

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[Example],
        outputs: Sequence[ModuleOutput],
        input_names: Sequence[str],
        output_names: Sequence[str],
    ) -> None:
        super().__init__(module, examples, outputs, input_names, output_names)
        try:
            exact = copy.deepcopy(module).double()
            copies = [exact, *roundings_of(exact)]
        except Exception:  # the user's code may raise anything
            copies = []
        self._exact = [ModuleReference(one, examples, outputs, input_names, output_names) for one in copies]

    @property
    def units(self) -> Mapping[str, Array]:
        """Return nothing: a module does not tell the units of its outputs."""
        return {}

    def answer_exactly(self, inputs: Rows, states: Mapping[str, Array] | None = None) -> ExactAnswer | None:
        """Run one sequence in float64 from the module's own initial state; None where it does not run so."""
        if not self._exact:
            return None
        given = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in inputs.items()}
        try:
            exact, *rounded = (one.answer(given) for one in self._exact)
        except Exception:  # the user's code may raise anything: a tensor that it makes may be float32
            self._exact = []
            return None
        return ExactAnswer(exact, tuple(rounded)) if _is_float64(exact) else None


def _is_float64(answer: Answer) -> bool:
    """Return whether no output was cast to float32 on the way."""
    return all(values.dtype == np.float64 for values in answer.outputs.values() if values.dtype.kind == "f")
