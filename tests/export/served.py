"""Runs of adopted files in tests: the artefact step by step, the original by onnx.reference."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from export import ExportOptions
from export.adopt import AdoptOptions, adopt_model
from export.arena_runner import INITIAL_SLOT, ArenaRunner
from export.artefact import read_card
from models.card import ModelCard
from tests.export.zoo import ForeignGraph, write


def graph(text: str, **weights: tuple[int, ...]) -> ModelProto:
    """Return a graph in ONNX's text format, its weights drawn from a fixed seed."""
    return ForeignGraph(text, {}, {}, weights=weights).model()


def adopted(model: ModelProto, folder: Path, **options: Any) -> tuple[Path, ModelCard, list[str]]:
    """Adopt a model; return the artefact, its card and the findings."""
    findings: list[str] = []
    file = write(model, folder / "foreign.onnx")
    parsed = AdoptOptions.parse(**options)
    path = adopt_model(file, folder, "m", 1, ExportOptions(on_finding=findings.append), adopt_options=parsed)
    return path, read_card(path), findings


def reference(model: ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run an unchanged model by onnx.reference, which shares no code with onnxruntime."""
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(None, feeds), strict=True))


def streamed(artefact: Path, inputs: dict[str, Any], chunk: int = 3) -> dict[str, Any]:
    """Return the outputs, (time, *shape), of one session that is sent (time, *shape) in chunks."""
    runner = ArenaRunner(artefact.read_bytes(), read_card(artefact), slots=4)
    steps = len(next(iter(inputs.values())))
    parts: dict[str, list[Any]] = {}
    slot = INITIAL_SLOT
    for start in range(0, steps, chunk):
        written = 2 + slot % 2
        rows = {name: values[None, start : start + chunk] for name, values in inputs.items()}
        for name, values in runner.run(rows, np.array([slot]), np.array([written])).items():
            parts.setdefault(name, []).append(values[0])
        slot = written
    return {name: np.concatenate(values) for name, values in parts.items() if not name.startswith("state.")}
