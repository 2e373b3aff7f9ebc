"""Export of a torch module: watch it, trace it with explicit states, build the served graph, verify, write."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Unpack

import torch
from onnx import ModelProto
from torch import nn

from export.adopt.errors import AdoptError
from export.adopt.graph import build_served_graph
from export.adopt.plan import Plan
from export.adopt.planning import Planned, make_plan
from export.adopt.wishes import Wishes
from export.errors import ExportError, ParityError
from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.given import Given, find_given
from export.module.loading import at_rest, check_weights
from export.module.oracle import ModuleOracle
from export.module.recording import Carried, find_leaves, input_names, record, refuse_changing, refuse_other_shapes
from export.module.tracing import make_explicit, trace
from export.order import Options, Order
from export.pipeline import write_artefact
from export.place import check_target
from export.precision import TOLERANCES, Precision
from export.proving import prove
from models.card import ModelCard, Parity
from models.threads import torch_threads

_TRACED_STEPS = 3


def export_module(
    module: nn.Module,
    examples: Sequence[Example],
    root: Path,
    name: str,
    version: int,
    **options: Unpack[Options],
) -> Path:
    """Write `root/name/version/model.onnx` for a module with recurrent layers and return its path; or write nothing.

    The options are those of an `Order`.

    Raises:
        ExportError: No artefact was written; see `export.module.errors` and `export.errors`.
    """
    order = Order(**options)
    target = root / name / str(version)
    check_target(target, force=order.force)
    module = at_rest(module)
    check_weights(module, "the module")
    sent = input_names(module, len(examples))
    # in a lower precision the float32 form is proved first, to its own tolerance
    exact = order if order.precision is Precision.FLOAT32 else replace(order, tolerance=None)
    with torch_threads(1):
        order.on_progress("watching a run")
        refuse_changing(module, examples)
        made, (served, card, planned) = _made(module, examples, sent, name, version, exact)
        if order.precision is not Precision.FLOAT32:
            served, card = prove(
                served,
                card,
                made.oracle(planned.plan),
                precision=order.precision,
                tolerance=order.tolerance,
                on_finding=order.on_finding,
            )
    for one in made.carried:
        order.on_finding(f"{one.path}: {len(one.layers)} layer{'s' * (len(one.layers) > 1)}, carried from step to step")
    if made.given is not None:
        order.on_finding(f"forward takes and returns its state: {', '.join(made.given.names)}")
    order.on_finding(
        "several steps run at once" if planned.plan.native_time else "one step is exported: a Scan carries it over time"
    )
    if planned.one_row:
        order.on_finding(planned.one_row)
    if made.frozen:
        order.on_finding(
            f"{', '.join(made.frozen)}: does something with a tensor's value in Python; the export holds what it did "
            "once. No comparison found it do anything else, but none can show that it never would"
        )
    order.on_progress("writing")
    return write_artefact(target, served, card, force=order.force)


_Made = tuple[ModelProto, ModelCard, Planned]


def _made(
    module: nn.Module, examples: Sequence[Example], sent: Sequence[str], name: str, version: int, order: Order
) -> tuple["_Making", _Made]:
    """Carry the states of the module's recurrent layers; where that fails, the state that it takes and returns."""
    failed = None
    try:
        if carried := record(module, examples):
            making = _Making(module, examples, sent, carried, None, name, version, order)
            return making, making.best()
    except ExportError as exc:
        failed = exc
    given = find_given(module, examples)
    if failed is not None and given is None:
        raise failed
    making = _Making(module, examples, sent, [], given, name, version, order)
    return making, making.best()


class _Making:
    """The two ways to export a module, tried in turn: all steps at once, or one step in a Scan."""

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[Example],
        sent: Sequence[str],
        carried: Sequence[Carried],
        given: Given | None,
        name: str,
        version: int,
        order: Order,
    ) -> None:
        self._module, self._examples, self.carried, self.given = module, examples, carried, given
        self._name, self._version, self._order = name, version, order
        self._sent = sent
        self._leaves = find_leaves(module, examples, 0 if given is None else len(given.names))
        refuse_other_shapes(self._leaves, examples[0])
        self._explicit = make_explicit(module, carried, given, self._leaves, len(examples))
        self._refuse_names_taken()
        self.frozen: list[str] = []

    def best(self) -> _Made:
        """Return the served graph that agrees with the module, its card, and how it was planned."""
        at_once = all(leaf.time for leaf in self._leaves) and not any(one.is_cell for one in self.carried)
        if at_once:
            try:
                return self._make(_TRACED_STEPS)
            except ExportError:
                pass  # tracing froze something: one step has nothing to freeze
        try:
            return self._make(1)
        except ParityError as exc:
            if exc.error <= TOLERANCES[Precision.FLOAT32]:
                raise  # by the rounding alone
            states = "the states of its recurrent layers" if self.given is None else "the state that it takes"
            seen = f", or choose by a tensor's value in {', '.join(self.frozen)}" if self.frozen else ""
            raise NotStreamableError(
                f"{exc}: the module does not compute a step from its input and {states} alone (it may look ahead, as a "
                f"convolution over time does, or carry something else{seen})"
            ) from exc
        except AdoptError as exc:
            raise NotStreamableError(f"the traced module cannot be served: {exc}") from exc

    def _make(self, steps: int) -> _Made:
        self._order.on_progress("tracing")
        model, self.frozen = trace(self._explicit, self._examples, self._sent, self._leaves, steps=steps)
        planned = make_plan(model, self._wishes(), self._order.on_progress)
        plan = planned.plan
        if plan.native_time != (steps > 1):
            raise NotStreamableError("the module gives something else for several steps than for one after another")
        served = build_served_graph(model, plan)
        served, card = prove(
            served,
            self._card(planned),
            self.oracle(plan),
            tolerance=self._order.tolerance,
            on_progress=self._order.on_progress,
        )
        return served, card, planned

    def _refuse_names_taken(self) -> None:
        taken = {*self._sent, *self._explicit.names, *(f"after/{name}" for name in self._explicit.names)}
        for leaf in self._leaves:
            if leaf.name in taken:
                raise NotStreamableError(
                    f"what the module returns as {leaf.name!r} has the name of one of its inputs or states: give it "
                    "another"
                )

    def oracle(self, plan: Plan) -> ModuleOracle:
        """Return what answers by the module itself, under the plan's names."""
        inputs, outputs = [one.spec.name for one in plan.inputs], [one.spec.name for one in plan.outputs]
        return ModuleOracle(self._module, self._examples, self._leaves, inputs, outputs)

    def _wishes(self) -> Wishes:
        explicit = self._explicit
        axes = {name: example.batch_axis for name, example in zip(self._sent, self._examples, strict=True)}
        return Wishes(
            states={name: f"after/{name}" for name in explicit.names} | dict.fromkeys(self._sent, ""),
            batch_axes=axes | dict(zip(explicit.names, explicit.axes, strict=True)),
            initial={name: row for one in self.carried for name, row in one.initial.items()},
        )

    def _card(self, planned: Planned) -> ModelCard:
        """Return the card of the module, its parity still open."""
        plan = planned.plan
        return ModelCard(
            name=self._name,
            version=self._version,
            description=self._order.description,
            cell="module",
            config={
                "module": f"{type(self._module).__module__}.{type(self._module).__qualname__}",
                **({"findings": [planned.one_row]} if planned.one_row else {}),
            },
            inputs=tuple(one.spec for one in plan.inputs),
            outputs=tuple(one.spec for one in plan.outputs),
            states=plan.state_specs,
            max_batch=self._order.max_batch if plan.batched else 1,
            ragged=False,
            weights_sha256=_weights_sha256(self._module),
            parity=Parity(tolerance=1.0, errors={}),
            created_by=" ".join(f"{p} {installed_version(p)}" for p in ("torch", "onnx", "onnxruntime")),
        )


def _weights_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = torch.as_tensor(tensor).detach().cpu().contiguous().numpy()
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
