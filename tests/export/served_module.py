"""A user's module exported to a folder, run as it is served, and held against the module itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export import ExportOptions
from export.arena_runner import FIRST_FREE_SLOT, INITIAL_SLOT, ArenaRunner
from export.artefact import read_card
from export.module import Example, export_module
from models.card import ModelCard

ROWS, CHUNKS = 3, (1, 4, 1, 2, 5)
"""Sequences that are served together, and the steps of each of their chunks."""
STEPS = sum(CHUNKS)


@dataclass(frozen=True)
class Exported:
    """An artefact, its card, what the export told, and the examples that it was made with."""

    data: bytes
    card: ModelCard
    findings: list[str]
    examples: list[Example]

    def draw(self) -> list[Tensor]:
        """Return random inputs as the module takes them, for as many sequences as may run together, up to `ROWS`."""
        generator = torch.Generator().manual_seed(11)
        return [example.draw(min(ROWS, self.card.max_batch), STEPS, generator) for example in self.examples]

    def serve(self, inputs: Sequence[Tensor]) -> Mapping[str, np.ndarray]:
        """Run sequences together in chunks, as sessions are; return the outputs, (rows, steps, *shape)."""
        rows = inputs[0].shape[self.examples[0].batch_axis]
        arrays = [x.transpose(0, 1) if e.time_first else x for x, e in zip(inputs, self.examples, strict=True)]
        feeds = {spec.name: x.numpy() for spec, x in zip(self.card.inputs, arrays, strict=True)}
        runner = ArenaRunner(self.data, self.card, slots=FIRST_FREE_SLOT + 2 * rows)
        read = np.full(rows, INITIAL_SLOT)
        parts: dict[str, list[np.ndarray]] = {spec.name: [] for spec in self.card.outputs}
        first = 0
        for index, steps in enumerate(CHUNKS):
            write = FIRST_FREE_SLOT + rows * (index % 2) + np.arange(rows)
            found = runner.run({name: x[:, first : first + steps] for name, x in feeds.items()}, read, write)
            for name, values in parts.items():
                values.append(found[name])
            read, first = write, first + steps
        return {name: np.concatenate(values, axis=1) for name, values in parts.items()}


def export(module: nn.Module, folder: Path, *shapes: str, time_first: bool = False) -> Exported:
    """Export a module into a folder."""
    findings: list[str] = []
    examples = [Example.parse(text, time_first=time_first) for text in shapes]
    path = export_module(module, examples, folder, "mine", 1, ExportOptions(on_finding=findings.append))
    return Exported(path.read_bytes(), read_card(path), findings, examples)


def assert_serves(exported: Exported, whole: Callable[..., Tensor], output: str | None = None) -> None:
    """Check that an output, the first unless named, is what `whole` gives for whole sequences."""
    inputs = exported.draw()
    with torch.no_grad():
        expected = whole(*[x.clone() for x in inputs]).numpy()
    found = exported.serve(inputs)[output or exported.card.outputs[0].name]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))


def inventory(module: nn.Module) -> dict[str, Any]:
    """Return what must be the same after an export: weights, buffers, training flags, gradients and hooks."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        found |= {
            f"{path}:training": part.training,
            f"{path}:hooks": [list(part._forward_hooks), list(part._forward_pre_hooks), list(part._backward_hooks)],
            f"{path}:attributes": sorted(vars(part)),
        }
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        values = (tensor.dtype, tensor.requires_grad, tensor.detach().tolist())
        found[name] = (id(tensor), *values, None if tensor.grad is None else tensor.grad.tolist())
    return found
