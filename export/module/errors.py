"""The reasons why a torch module is not exported, each with the sentence that a user reads."""

from export.errors import ExportError


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
