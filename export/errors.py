"""The reasons why an export writes nothing, each with the sentence that a user reads."""

from pathlib import Path


class ExportError(Exception):
    """No artefact was written, and the message says why."""


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


class ArenaCopiedError(ExportError):
    """The graph would copy a whole arena at every step."""

    def __init__(self, arena: str, found: str) -> None:
        super().__init__(f"{arena} must feed one Gather and one ScatterND and nothing else, but {found}")


class ParityError(ExportError):
    """onnxruntime and what the artefact was made from disagree."""

    def __init__(self, comparison: str, error: float, tolerance: float, detail: str = "") -> None:
        self.comparison = comparison
        self.error = error
        self.tolerance = tolerance
        where = f" ({detail})" if detail else ""
        super().__init__(
            f"the comparison {comparison!r} with the original failed{where}: "
            f"the largest difference is {error:.3g} of the scale, the tolerance {tolerance:.3g}"
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
