"""What can keep a foreign model from being adopted, each with the sentence a user reads."""

from collections.abc import Iterable
from pathlib import Path

from export.errors import ExportError


class AdoptError(ExportError):
    """The model was not adopted, and the message says what is wrong and where."""


class UnsafeFileError(AdoptError):
    """The file is no whole, self-contained ONNX model."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class BadWishError(AdoptError):
    """An option names something that the model has not, or cannot be."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")


class AmbiguousError(AdoptError):
    """More than one reading of the model is possible; the message lists them and the option that settles it."""

    def __init__(self, what: str, candidates: Iterable[str], settle: str) -> None:
        super().__init__(f"{what}: {'; '.join(candidates)}. Settle it with {settle}")


class NotServableError(AdoptError):
    """The model is whole, but cannot be served a step at a time."""
