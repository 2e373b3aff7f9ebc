"""The answers of the user's own module to whole sequences, in torch."""

from collections.abc import Sequence as Many

import torch
from torch import nn

from export.comparison import Array, Sequence
from export.module.example import Example
from export.module.recording import Leaf, leaves_of
from export.module.running import run_quietly


class ModuleOracle:
    """Answers random sequences by one call of the module each; what it returns only at the end, by a call a step."""

    def __init__(
        self, module: nn.Module, examples: Many[Example], leaves: Many[Leaf], inputs: Many[str], outputs: Many[str]
    ) -> None:
        self._module, self._examples, self._leaves = module, examples, leaves
        self._inputs, self._outputs = inputs, outputs
        self._generator = torch.Generator().manual_seed(2)

    def sequence(self, length: int) -> Sequence:
        """Draw one sequence and run it from the module's own initial state."""
        inputs = [example.draw(1, length, self._generator) for example in self._examples]
        whole = self._run(inputs, length)
        steps = []
        if not all(leaf.time for leaf in self._leaves):
            steps = [self._run(inputs, step + 1) for step in range(length)]
        axis = self._examples[0].batch_axis
        outputs: dict[str, Array] = {}
        for name, leaf in zip(self._outputs, self._leaves, strict=True):
            if leaf.time:
                outputs[name] = whole[leaf.place].select(axis, 0).numpy()
            else:
                outputs[name] = torch.stack([step[leaf.place][0] for step in steps]).numpy()
        given = {
            name: x.select(example.batch_axis, 0).numpy()
            for name, x, example in zip(self._inputs, inputs, self._examples, strict=True)
        }
        return Sequence(given, outputs, {})

    def _run(self, inputs: list[torch.Tensor], steps: int) -> list[torch.Tensor]:
        given = [example.until(x, steps) for example, x in zip(self._examples, inputs, strict=True)]
        result = run_quietly(self._module, given)
        return [leaf.detach() for _, leaf in leaves_of(result)]
