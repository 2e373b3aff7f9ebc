"""An attempt to export a module with certain states: all steps at once where possible, else one step in a Scan."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from onnx import ModelProto
from torch import nn

from export.adopt.errors import AdoptError
from export.adopt.graph import build_served_graph
from export.adopt.options import AdoptOptions
from export.adopt.plan import Plan
from export.adopt.planning import Planned, make_plan
from export.candidate import Candidate
from export.cards import UNVERIFIED, installed
from export.destination import Destination
from export.errors import ExportError, ParityError
from export.module.errors import ACCEPTED, NotStreamableError
from export.module.example import Example
from export.module.explicit import make_explicit
from export.module.outputs import find_outputs, refuse_other_shapes
from export.module.recording import Carried
from export.module.reference import ModuleReference
from export.module.state_argument import StateArgument
from export.module.tracing import trace
from export.options import ExportOptions
from export.precision import TOLERANCES, Precision
from models.card import ModelCard

_TRACED_STEPS = 3


@dataclass(frozen=True, slots=True)
class Traced:
    """A verified served graph of a module, how it was planned, and the lines that read a tensor's value."""

    candidate: Candidate
    planned: Planned
    value_reads: list[str]


class Attempt:
    """Exports a module that carries the states of its recurrent layers, or the state that it takes and returns."""

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[Example],
        names: Sequence[str],
        carried: Sequence[Carried],
        argument: StateArgument | None,
        destination: Destination,
        options: ExportOptions,
    ) -> None:
        self._module, self._examples, self.carried, self.argument = module, examples, carried, argument
        self._destination, self._options = destination, options
        self._names = names
        self._run: nn.Module = module if argument is None else argument.called
        returned = find_outputs(self._run, examples, 0 if argument is None else len(argument.names))
        self._outputs, self.returned_states = returned.outputs, returned.states
        refuse_other_shapes(self._outputs, examples[0])
        self._explicit = make_explicit(module, carried, argument, self._outputs, len(examples))
        self._refuse_names_taken()
        self._value_reads: list[str] = []

    def best(self) -> Traced:
        """Return the served graph that agrees with the module in float32.

        Raises:
            ExportError: Neither way gives one.
        """
        at_once = all(output.time for output in self._outputs) and not any(one.is_cell for one in self.carried)
        if at_once:
            try:
                return self._traced(_TRACED_STEPS)
            except ExportError:
                pass  # the trace may hold what several steps did once: one step has nothing of that kind
        try:
            return self._traced(1)
        except ParityError as exc:
            if exc.error <= TOLERANCES[Precision.FLOAT32]:
                raise  # only rounding, against a smaller tolerance
            states = "the states of its recurrent layers" if self.argument is None else "the state that it takes"
            seen = f", or choose by a tensor's value in {', '.join(self._value_reads)}" if self._value_reads else ""
            raise NotStreamableError(
                f"{exc}: the module does not compute a step from its input and {states} alone (it may look ahead, as a "
                f"convolution over time does, or carry something else{seen}). A module takes and returns its own "
                f"state: {ACCEPTED}"
            ) from exc
        except AdoptError as exc:
            raise NotStreamableError(f"the traced module cannot be served: {exc}") from exc

    def candidate(self, graph: ModelProto, card: ModelCard, plan: Plan) -> Candidate:
        """Return a candidate that is compared with the module, on sequences from the same seed each time."""
        outputs = [spec.name for spec in plan.output_specs]
        inputs = [spec.name for spec in plan.input_specs]
        return Candidate(graph, card, ModuleReference(self._run, self._examples, self._outputs, inputs, outputs))

    def _traced(self, steps: int) -> Traced:
        options = self._options
        options.on_progress("tracing")
        model, self._value_reads = trace(self._explicit, self._examples, self._names, self._outputs, steps=steps)
        planned = make_plan(model, self._adopt_options(), options.on_progress)
        plan = planned.plan
        if plan.native_time != (steps > 1):
            raise NotStreamableError("the module gives something else for several steps than for one after another")
        graph = build_served_graph(model, plan)
        try:
            verified = self.candidate(graph, self._card(planned), plan).verified(
                options.allowed_in_float32, options.on_progress
            )
        except ParityError as exc:
            if steps > 1 or not plan.batched or not exc.comparison.endswith("strangers"):
                raise
            planned = _one_row(planned, exc)
            verified = self.candidate(graph, self._card(planned), planned.plan).verified(
                options.allowed_in_float32, options.on_progress
            )
        return Traced(verified, planned, self._value_reads)

    def _refuse_names_taken(self) -> None:
        taken = {*self._names, *self._explicit.names, *(f"after/{name}" for name in self._explicit.names)}
        for output in self._outputs:
            if output.name in taken:
                raise NotStreamableError(
                    f"what the module returns as {output.name!r} has the name of one of its inputs or states: give it "
                    "another"
                )

    def _adopt_options(self) -> AdoptOptions:
        explicit = self._explicit
        axes = {name: example.batch_axis for name, example in zip(self._names, self._examples, strict=True)}
        times: dict[str, int | None] = {
            name: example.time_axis for name, example in zip(self._names, self._examples, strict=True)
        }
        axis = self._examples[0].time_axis
        times |= {output.name: axis if output.time else None for output in self._outputs}
        return AdoptOptions(
            time_axes=times,
            states={name: f"after/{name}" for name in explicit.names} | dict.fromkeys(self._names, ""),
            batch_axes=axes | dict(zip(explicit.names, explicit.axes, strict=True)),
            initial={name: row for one in self.carried for name, row in one.initial.items()}
            | ({} if self.argument is None else self.argument.initial),
        )

    def _card(self, planned: Planned) -> ModelCard:
        """Return the card of the module, without figures."""
        plan = planned.plan
        return ModelCard(
            name=self._destination.name,
            version=self._destination.version,
            description=self._options.description,
            cell="module",
            config={
                "module": f"{type(self._module).__module__}.{type(self._module).__qualname__}",
                **({"findings": [planned.one_row]} if planned.one_row else {}),
            },
            inputs=plan.input_specs,
            outputs=plan.output_specs,
            states=plan.state_specs,
            max_batch=self._options.max_batch if plan.batched else 1,
            ragged=False,
            weights_sha256=_weights_sha256(self._module),
            parity=UNVERIFIED,
            created_by=installed("torch", "onnx", "onnxruntime"),
        )


def _one_row(planned: Planned, failed: ParityError) -> Planned:
    """Return a plan by which rows run one at a time, because together they gave something else."""
    why = (
        "rows cannot be run together, so max_batch is 1: an answer depends on the other rows of its batch, by "
        f"{failed.error:.3g} of the scale"
    )
    return replace(planned, plan=replace(planned.plan, batched=False), one_row=why)


def _weights_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = torch.as_tensor(tensor).detach().cpu().contiguous().numpy()
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
