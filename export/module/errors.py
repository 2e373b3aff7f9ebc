"""The reasons why a torch module is not exported, each with the sentence that a user reads."""

from export.errors import ExportError

ACCEPTED = "forward(x, state=None) → (y, state)"
"""The signature of a module that takes and returns its state, as sentences show it."""


class ModuleError(ExportError):
    """The module was not exported, and the message says what is wrong and where."""


class FactoryError(ModuleError):
    """The module could not be made."""

    def __init__(self, factory: str, reason: str) -> None:
        super().__init__(f"{factory}: {reason}")


class WeightsError(ModuleError):
    """The weights could not be read, or do not fit the module."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class NotStreamableError(ModuleError):
    """The module cannot be run one step at a time."""


class DoesNotRunError(NotStreamableError):
    """The module's forward raised an error on an example."""


class NoStateFoundError(NotStreamableError):
    """The module seems to take a state, but it could not be found out how."""

    def __init__(self, signature: object, reason: str) -> None:
        super().__init__(
            f"forward{signature} seems to take a state, but {reason}. The accepted signature is {ACCEPTED}, where no "
            "state means the state before the first step and the returned one has the shapes of the one that is taken"
        )
