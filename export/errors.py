"""The reasons why an export writes nothing, each with the sentence that a user reads."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ExportError(Exception):
    """No artefact was written, and the message says why."""

    def __reduce__(self) -> tuple[Callable[..., "ExportError"], tuple[Any, ...]]:
        # a subclass builds its message from other arguments, so it cannot be made again from the message alone
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[ExportError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ExportError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class BadDestinationError(ExportError):
    """The destination is not a folder for an artefact."""

    def __init__(self, destination: Path, reason: str) -> None:
        super().__init__(
            f"{destination}: {reason} "
            "(expected artifacts/NAME/VERSION, an integer version, such as artifacts/detector/1)"
        )


class BadToleranceError(ExportError):
    """The tolerance does not lie between 0 and 1."""

    def __init__(self, tolerance: float) -> None:
        super().__init__(f"the tolerance must lie between 0 and 1, neither of them allowed, and is {tolerance:g}")


class DestinationExistsError(ExportError):
    """There is an artefact of this version already."""

    def __init__(self, destination: Path) -> None:
        super().__init__(f"{destination} exists already: choose the next version, or replace it with --force")


class NoLoweringError(ExportError):
    """The cell has no lowering, and its step cannot be traced."""

    def __init__(self, cell: type, reason: str) -> None:
        super().__init__(
            f"no ONNX form is known for the cell {cell.__name__}, and torch cannot trace its step: {reason}"
        )


class GraphFailedError(ExportError):
    """onnxruntime does not load the served graph, or does not run it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"onnxruntime does not run the graph on some number of rows and steps, as it must on any: {reason}"
        )


class ArenaCopiedError(ExportError):
    """The graph would copy a whole arena at every step."""

    def __init__(self, arena: str, found: str) -> None:
        super().__init__(f"{arena} must feed one Gather and one ScatterND and nothing else, but {found}")


class ParityError(ExportError):
    """onnxruntime and what the artefact was made from disagree.

    `error` is the largest difference of the spread, infinite where the two differ in what is not finite; `tolerance` is
    what was allowed there, at the step that counts from 1.
    """

    def __init__(self, comparison: str, error: float, tolerance: float, tensor: str, step: int) -> None:
        self.comparison = comparison
        self.error = error
        self.tolerance = tolerance
        if math.isfinite(error):
            where = f"{tensor}, step {step}"
            found = f"the largest difference is {error:.3g} of the spread of its values"
        else:
            where = tensor
            found = "a shape, an integer, a boolean, or what is NaN or infinite differs (do values overflow?)"
        super().__init__(
            f"the comparison {comparison!r} with the original failed ({where}): {found}, the tolerance {tolerance:.3g} "
            "(--tolerance sets another)"
        )


class CoarseFloat32Error(ExportError):
    """float32 is too coarse for the original itself, so that a comparison would say nothing."""

    def __init__(self, comparison: str, tensor: str, error: float, most: float) -> None:
        self.error = error
        super().__init__(
            f"the comparison {comparison!r} says nothing ({tensor}): the original's own run in float32 is {error:.3g} "
            f"of the spread of its values away from its run in float64, and {most:.3g} is the most. Take a large "
            "offset out of the outputs, or train with smaller weights; a larger --tolerance allows more of it"
        )


class ForeignRowError(ExportError):
    """A run changed a row of an arena that it was not told to write."""

    def __init__(self, comparison: str, arena: str, slots: list[int]) -> None:
        super().__init__(
            f"in the comparison {comparison!r} a run changed slots {slots} of {arena}, which are not its own"
        )


class ArtefactError(ExportError):
    """The file is not a complete artefact."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
