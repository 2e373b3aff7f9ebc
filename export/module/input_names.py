"""The names of a module's inputs."""

import inspect

from torch import nn

from export.module.errors import NotStreamableError
from export.module.running import said


def input_names(module: nn.Module, count: int) -> list[str]:
    """Return the names of the first arguments of a module's forward; arguments without one are numbered.

    Raises:
        NotStreamableError: It takes fewer, or cannot be called with so many.
    """
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError) as exc:
        raise NotStreamableError(f"the module's forward cannot be called with an input: {said(exc)}") from exc
    try:
        signature.bind(*range(count))
    except TypeError as exc:
        raise NotStreamableError(
            f"forward{signature} cannot be called with {count} example{'s' * (count > 1)}: {exc}"
        ) from exc
    names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [names[index] if index < len(names) else f"x{index}" for index in range(count)]
