"""The reasons why stages are not chained, each with the sentence that a user reads."""

from collections.abc import Iterable, Sequence

from export.errors import ExportError
from models.card import TensorSpec


class ChainError(ExportError):
    """The stages were not chained, and the message says what is wrong and where."""


class StageError(ChainError):
    """A stage cannot be read, or cannot be part of a chain."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"the stage {stage!r}: {reason}")


class BadMapError(ChainError):
    """A --map or --step cannot be read, or contradicts another."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")


class UnknownPortError(ChainError):
    """An option names a stage, input or output that does not exist."""

    def __init__(self, option: str, what: str, known: Iterable[str]) -> None:
        super().__init__(f"{option}: there is no {what}, only {', '.join(known)}")


class MisfitError(ChainError):
    """An output does not fit the input that it feeds, in dtype or in the shape of a step."""

    def __init__(self, source: str, given: TensorSpec, target: str, taken: TensorSpec) -> None:
        super().__init__(
            f"{source} cannot feed {target}: a step of the one is {described(given)}, and of the other "
            f"{described(taken)}; put a stage between them that makes the one from the other"
        )


class CycleError(ChainError):
    """Stages feed each other in a circle within one step."""

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__(
            f"the stages feed each other in a circle, {' → '.join(stages)}: within a step none of them could run first"
        )


class NameCollisionError(ChainError):
    """Two inputs, outputs or states of the chain would have one name."""

    def __init__(self, kind: str, name: str, owners: Sequence[str], settle: str) -> None:
        super().__init__(f"{' and '.join(owners)} would both be the {kind} {name!r} of the chain: {settle}")


class DisconnectedError(ChainError):
    """A stage has nothing to do with the others."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{reason}: connect it by --map {stage}.OUTPUT=STAGE.INPUT, or leave it out")


def described(spec: TensorSpec) -> str:
    """Return the dtype and the shape of a step."""
    return f"{spec.dtype}{list(spec.shape)}"
