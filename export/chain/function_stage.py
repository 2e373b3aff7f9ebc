"""A torch function without state as a stage of a chain: traced for any number of rows, then adopted."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from export.adopt.options import AdoptOptions
from export.chain.adopted_stage import adopted, stage_of
from export.chain.errors import StageError
from export.chain.stage import Stage, Steps
from export.lower.traced import first_reason, quiet_exporter
from export.module.running import RAISED, quiet, said
from export.options import ExportOptions
from export.reference import Rows
from models.card import TensorSpec

OPSET = 20
"""The first with an inverse Fourier transform of real values."""
OUTPUT = "y"
"""The name of what a function returns as one tensor."""


class _Tensors(nn.Module):
    """A function as a module of tensors in and tensors out, which is what the exporter takes."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[str]) -> None:
        super().__init__()
        self._function, self._arguments = function, arguments

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = named(self._function(**dict(zip(self._arguments, inputs, strict=True))))
        # distinct values, so that every output of the trace has a name of its own
        return tuple(value.clone() for value in found.values())


def named(returned: Any) -> dict[str, Tensor]:
    """Return the tensors that a function returned, by name.

    Raises:
        TypeError: It is neither a tensor, nor a dict or named tuple of them.
    """
    if isinstance(returned, Tensor):
        return {OUTPUT: returned}
    found = returned._asdict() if hasattr(returned, "_asdict") else returned
    if isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values()):
        return {str(name): value for name, value in found.items()}
    raise TypeError(f"it returns a {type(returned).__name__}, and not a tensor, a dict or a named tuple of tensors")


class _FunctionRunner:
    """Calls the function itself, one row at a time."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function

    def start(self) -> None:
        pass

    def step(self, inputs: Rows) -> Rows:
        try:
            with quiet(), torch.no_grad():
                # copies, which it may write into
                found = named(self._function(**{name: torch.tensor(rows) for name, rows in inputs.items()}))
        except RAISED as exc:
            raise StageError(self._name, f"the function does not run: {said(exc)}") from exc
        return {name: value.numpy() for name, value in found.items()}

    @property
    def states(self) -> Rows:
        return {}


@dataclass(frozen=True, slots=True)
class FunctionSource:
    """A function that was imported. It takes (batch, *shape) by argument name, one step of each row."""

    name: str
    text: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    options: ExportOptions

    @classmethod
    def load(cls, name: str, text: str, options: ExportOptions) -> "FunctionSource":
        """Import MODULE:FUNCTION from the working folder or from Python's path.

        Raises:
            StageError: There is no such function, or its arguments have no names.
        """
        package, _, path = text.partition(":")
        name = name or path.rpartition(".")[2]
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            with quiet():
                function: Any = importlib.import_module(package)
                for part in path.split("."):
                    function = getattr(function, part)
        except RAISED as exc:
            raise StageError(name, f"{text} cannot be imported: {said(exc)}") from exc
        if isinstance(function, (type, nn.Module)) or not callable(function):
            raise StageError(
                name,
                f"{text} is no function; what has weights or a state is made an artefact by `python -m export module` "
                "first",
            )
        return cls(name, text, function, _arguments(name, text, function), options)

    @property
    def input_names(self) -> tuple[str, ...]:
        return self.arguments

    def make(self, fed: Mapping[str, TensorSpec], steps: Steps, connected: Collection[str]) -> Stage:
        specs = dict(fed)
        for argument in self.arguments:
            if argument in steps and argument not in specs:
                specs[argument] = TensorSpec(name=argument, shape=steps[argument])
            if argument not in specs:
                raise StageError(
                    self.name,
                    f"no stage gives {self.name}.{argument}, so the shape of a step is not known: connect it by --map, "
                    f"or give it by --step {self.name}.{argument}=SIZE",
                )
        self.options.on_progress(f"{self.name}: tracing the function")
        rows = {argument: _draw(specs[argument]) for argument in self.arguments}
        outputs = list(self._returned(rows))
        inputs = {f"in.{index}": argument for index, argument in enumerate(self.arguments)}
        given = {f"out.{index}": output for index, output in enumerate(outputs)}
        model = self._traced(list(rows.values()), list(inputs), list(given))
        present = {value.name for value in model.graph.input}
        for value, argument in inputs.items():
            if value not in present or not _reads(model, value):
                raise StageError(self.name, f"nothing that the function returns depends on its argument {argument!r}")
        adopt_options = AdoptOptions(states=dict.fromkeys(inputs, ""), batch_axes=dict.fromkeys(inputs, 0))
        candidate = adopted(self.name, model, self.options, adopt_options)
        digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
        made_of = {"function": self.text, "sha256": digest}
        return stage_of(self.name, candidate, _FunctionRunner(self.name, self.function), made_of, inputs, given)

    def _returned(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the function once on two rows, and return what it gives."""
        try:
            with quiet(), torch.no_grad():
                found = named(self.function(**{name: value.clone() for name, value in rows.items()}))
        except RAISED as exc:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in rows.items())
            raise StageError(self.name, f"the function does not run on {shapes}: {said(exc)}") from exc
        return found

    def _traced(self, rows: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
        """Trace the function for any number of rows; for one where it is made for one."""
        try:
            return self._export(rows, inputs, outputs, ({0: torch.export.Dim("batch")},) * len(rows))
        except Exception as exc:  # the exporter raises whatever went wrong inside it
            try:
                return self._export([row[:1] for row in rows], inputs, outputs, ({},) * len(rows))
            except Exception:
                raise StageError(self.name, f"torch cannot trace the function: {first_reason(exc)}") from exc

    def _export(self, rows: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str], shapes: Any) -> ModelProto:
        with quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                _Tensors(self.function, self.arguments).eval(),
                tuple(row.clone() for row in rows),
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=(shapes,),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        model: ModelProto = onnx.inliner.inline_local_functions(program.model_proto)
        model.producer_name, model.doc_string = "", ""
        del model.metadata_props[:]
        for node in model.graph.node:  # where in the user's code it was written, with paths
            node.doc_string = ""
            del node.metadata_props[:]
        return model


def _arguments(name: str, text: str, function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as exc:
        raise StageError(name, f"the arguments of {text} are not known: {said(exc)}") from exc
    needed = [one for one in parameters if one.default is one.empty]
    if not needed or any(one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) for one in needed):
        raise StageError(name, f"{text} must take its inputs as arguments with names")
    return tuple(one.name for one in needed)


def _draw(spec: TensorSpec) -> Tensor:
    """Return two random rows of one step."""
    random = np.random.default_rng(1)
    shape = (2, *spec.shape)
    if spec.dtype.startswith("float"):
        return torch.from_numpy(random.random(shape).astype(spec.dtype))
    return torch.from_numpy(random.integers(0, 2, shape).astype(spec.dtype))


def _reads(model: ModelProto, name: str) -> bool:
    return any(name in node.input for node in model.graph.node) or name in {out.name for out in model.graph.output}
