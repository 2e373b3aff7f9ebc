"""The reasons why a foreign model is not adopted, each with the sentence that a user reads."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from export.errors import ExportError
from export.sentences import clipped


class AdoptError(ExportError):
    """The model was not adopted, and the message says what is wrong and where."""


class UnsafeFileError(AdoptError):
    """The file is not a complete, self-contained ONNX model."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class BadOptionError(AdoptError):
    """An option names something that the model does not have, or has a value that it cannot take."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{clipped(option)}: {reason}")


class AmbiguousError(AdoptError):
    """The model can be understood in more than one way; the message lists them and the option that decides."""

    def __init__(self, what: str, candidates: Iterable[str], settle: str) -> None:
        super().__init__(f"{what}: {'; '.join(candidates)}. Settle it with {settle}")


class UnsettledStatesError(AmbiguousError):
    """It is not clear what feeds some of the inputs; the message ends with one command that settles all of them."""

    def __init__(self, what: str, candidates: Iterable[str], settle: str, states: Mapping[str, str]) -> None:
        self.states = dict(states)
        given = " ".join(f"--state {shlex.quote(f'{source}={target}')}" for source, target in states.items())
        super().__init__(what, candidates, f"{settle}. All states in one command: {_COMMAND} {given}")

    def of(self, file: Path, folder: Path | None) -> "UnsettledStatesError":
        """Return the same with the names of the file, and of the folder for the artefact, in the command."""
        out = "--explain" if folder is None else f"--out {shlex.quote(str(folder))}"
        ready = f"python -m export adopt {shlex.quote(str(file))} {out}"
        self.args = (str(self).replace(_COMMAND, ready),)
        return self


_COMMAND = "python -m export adopt FILE --out FOLDER"


class NotServableError(AdoptError):
    """The model is complete, but cannot be served one step at a time."""


class EndedProcessError(NotServableError):
    """Running the model ended the process in which it was run."""

    def __init__(self, signal: str, under_way: str) -> None:
        super().__init__(
            f"running the model ended the process that ran it ({signal}, while: {under_way}), as it would end the "
            "server. onnxruntime does so where a recurrent layer is given no steps or no rows, where a tensor has no "
            "values, and where memory runs out (SIGKILL)"
        )


class OpenStateError(NotServableError):
    """A state has an axis whose size is not known."""

    def __init__(self, name: str, port: object, axis: str) -> None:
        super().__init__(
            f"the state {port} has an axis of no fixed size besides the batch, {axis!r}: "
            f"give its size by an --initial FILE with a value for {name!r}"
        )


class GrowingStateError(NotServableError):
    """A state is longer after a step than before it."""

    def __init__(self, source: str, target: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__(
            f"the state {source!r} grows: a step makes the shape {after} of {before} (output {target!r}, without the "
            "batch). Each session's state is held in a slot of fixed size, which a state that grows would "
            "leave after a few steps: let the graph drop the oldest values, so that the shape stays the same"
        )


class SettlingStateError(NotServableError):
    """A state of open size settles at one size, and what it gives depends on the size that it starts with."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], given: Sequence[str]) -> None:
        settles = ", ".join(f"{name!r} settles at {'×'.join(map(str, shape))}" for name, shape in shapes.items())
        start = "the value that --initial gives, brought to that size," if given else "zeros of that size"
        super().__init__(
            f"the state {settles} after some steps, but {start} gives something else than what is shorter. A session's "
            "state is held in a slot of fixed size: give a value of that size by an --initial FILE, from which every "
            "session is to start"
        )


class WholeSequenceError(AdoptError):
    """The original's run over a whole sequence differs from its steps one after another.

    `maybe_batch`: the axes along which it was run could be the batch as well.
    """

    def __init__(
        self,
        axes: Mapping[str, int],
        tensor: str,
        difference: float,
        tolerance: float,
        nodes: Sequence[str],
        *,
        maybe_batch: bool = False,
    ) -> None:
        self.difference = difference
        along = ", ".join(f"axis {axis} of {name}" for name, axis in axes.items())
        by = (
            f"by {difference:.3g} of the spread of its values"
            if math.isfinite(difference)
            else "in shape or in what is not finite"
        )
        more = f" and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
        named = f"; what may carry something over time: {', '.join(nodes[:_MOST_NODES])}{more}" if nodes else ""
        batch = " ".join(f"--batch-axis {shlex.quote(f'{name}:{axis}')}" for name, axis in axes.items())
        settle = f"if {along} is the batch: {batch}; " if maybe_batch else ""
        super().__init__(
            f"the model's run over the whole sequence ({along}) differs from its steps one after another: {tensor!r} "
            f"differs {by} ({settle}if the steps are what is wanted: --frame-by-frame), and the tolerance is "
            f"{tolerance:.3g}{named}"
        )


class NotCausalError(AdoptError):
    """An output of a step depends on steps that come after it."""

    def __init__(self, nodes: Sequence[str]) -> None:
        more = f"; and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
        super().__init__(
            "the model cannot answer one step at a time, because what it gives for a step depends on later ones: "
            f"{'; '.join(nodes[:_MOST_NODES])}{more}. Run it over whole sequences, export a causal model, or, if "
            "the steps are what is wanted, give --frame-by-frame"
        )


_MOST_NODES = 5
