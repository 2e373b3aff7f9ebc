"""The user's own module as the reference, in torch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from export.module.example import Example
from export.module.leaves import leaves_of
from export.module.outputs import ModuleOutput
from export.module.running import run_quietly
from export.reference import Answer, Rows


class ModuleReference:
    """Answers a random sequence by one call of the module; outputs without a time axis, by a call for each step."""

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

    def draw(self, length: int) -> Rows:
        """Return one random sequence of each input."""
        drawn = {name: example.draw(1, length, self._generator) for name, example in self._examples.items()}
        return {name: x.select(self._examples[name].batch_axis, 0)[None].numpy() for name, x in drawn.items()}

    def answer(self, inputs: Rows) -> Answer:
        """Run one sequence from the module's own initial state; the states after it are not known."""
        length = next(iter(inputs.values())).shape[1]
        given = [
            torch.from_numpy(inputs[name][0]).unsqueeze(example.batch_axis) for name, example in self._examples.items()
        ]
        whole = self._run(given, length)
        steps = []
        if not all(output.time for output in self._outputs):
            steps = [self._run(given, step + 1) for step in range(length)]
        axis = next(iter(self._examples.values())).batch_axis
        found = {}
        for name, output in zip(self._output_names, self._outputs, strict=True):
            if output.time:
                found[name] = whole[output.index].select(axis, 0)[None].numpy()
            else:
                found[name] = torch.stack([step[output.index][0] for step in steps])[None].numpy()
        return Answer(found, {})

    def _run(self, inputs: Sequence[Tensor], steps: int) -> list[Tensor]:
        given = [
            example.first_steps(x, steps).clone() for example, x in zip(self._examples.values(), inputs, strict=True)
        ]
        return [leaf.detach() for _, leaf in leaves_of(run_quietly(self._module, given))]
