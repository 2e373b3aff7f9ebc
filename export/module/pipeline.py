"""Export of a torch module: run it, trace it with explicit states, build the served graph, verify it, write it."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from export.candidate import write_artefact
from export.destination import Destination
from export.errors import ExportError
from export.module.attempt import Attempt, Traced
from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.given_back import given_back
from export.module.input_names import input_names
from export.module.kept import refuse_changing
from export.module.loading import check_weights, prepared, unwrapped
from export.module.recording import record
from export.module.running import said
from export.module.state_argument import find_state_argument
from export.module.torch_script import refuse_torch_script
from export.options import ExportOptions
from export.precision import Precision
from models.threads import torch_threads

_DEFAULTS = ExportOptions()


def export_module(
    module: nn.Module,
    examples: Sequence[Example],
    root: Path,
    name: str,
    version: int,
    options: ExportOptions = _DEFAULTS,
) -> Path:
    """Write `root/name/version/model.onnx` for a module with recurrent layers and return its path; or write nothing.

    The module is exported as it computes after eval(), and given back as it was. For a lower precision the graph is
    verified in float32 first.

    Raises:
        ExportError: No artefact was written; see `export.module.errors` and `export.errors`.
    """
    destination = Destination(root, name, version)
    destination.check(force=options.force)
    module = unwrapped(module)
    with given_back(module), torch_threads(1):
        refuse_torch_script("the module", module)
        prepared(module)
        check_weights(module, "the module")
        options.on_progress("watching a run")
        try:
            attempt, traced = _trace(module, examples, destination, options)
        except ExportError:
            raise
        except Exception as exc:  # torch, onnx and onnxruntime raise many types for what they do not support
            raise NotStreamableError(f"the module cannot be exported: {said(exc)}") from exc
        candidate = traced.candidate
        if options.precision is not Precision.FLOAT32:
            # new sequences for the lower precision
            candidate = attempt.candidate(candidate.graph, candidate.card, traced.planned.plan)
        return write_artefact(destination, candidate, options, last_check=lambda: _report(attempt, traced, options))


def _trace(
    module: nn.Module,
    examples: Sequence[Example],
    destination: Destination,
    options: ExportOptions,
) -> tuple[Attempt, Traced]:
    """Carry the states of the module's recurrent layers; where that fails, the state that it takes and returns."""
    does_not_run = refuse_changing(module, examples)
    failed: ExportError | None = None
    try:
        names = input_names(module, len(examples))
        if does_not_run is not None:
            raise does_not_run
        if carried := record(module, examples):
            attempt = Attempt(module, examples, names, carried, None, destination, options)
            return attempt, attempt.best()
    except ExportError as exc:
        failed = exc
    argument = find_state_argument(module, examples)
    if argument is None:
        if failed is not None:
            raise failed
        names = input_names(module, len(examples))
    else:
        names = list(argument.inputs)
    attempt = Attempt(module, examples, names, [], argument, destination, options)
    return attempt, attempt.best()


def _report(attempt: Attempt, traced: Traced, options: ExportOptions) -> None:
    """Tell what was found about the module."""
    for one in attempt.carried:
        options.on_finding(
            f"{one.path}: {len(one.layers)} layer{'s' * (len(one.layers) > 1)}, carried from step to step"
        )
    if attempt.returned_states:
        options.on_finding(
            f"{', '.join(attempt.returned_states)}, which forward returns: the last states of its layers, kept by the "
            "session and no outputs"
        )
    if attempt.argument is not None:
        options.on_finding(
            f"forward takes and returns its state: {', '.join(attempt.argument.names)}"
            + (" (it requires one: sessions start from zeros)" if attempt.argument.is_required else "")
        )
    options.on_finding(
        "several steps run at once"
        if traced.planned.plan.native_time
        else "one step is exported: a Scan carries it over time"
    )
    if traced.planned.one_row:
        options.on_finding(traced.planned.one_row)
    if traced.value_reads:
        options.on_finding(
            f"{', '.join(traced.value_reads)}: does something with a tensor's value in Python; the export holds "
            "what it did once. No comparison found it do anything else, but none can show that it never would"
        )
