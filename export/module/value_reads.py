"""The lines of a user's code that read a tensor's value in Python: a trace holds what they did with it once."""

import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning
from torch.overrides import TorchFunctionMode

_SILENT = frozenset({torch.equal, torch.allclose, torch.is_nonzero, Tensor.equal, Tensor.allclose, Tensor.is_nonzero})
"""Functions that return a value to Python without a warning from torch's tracer."""
_NOT_USERS = (Path(torch.__file__).parent, Path(__file__).parent)


class ValueReads(TorchFunctionMode):
    """Collects the lines that compare whole tensors, in a run that is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one of torch's functions, and note the line that called it."""
        if func in _SILENT:
            lines = [frame for frame in traceback.extract_stack() if _is_users(frame.filename)]
            self.lines |= {_line(frame.filename, frame.lineno) for frame in lines[-1:]}
        return func(*args, **(kwargs or {}))


def warned_lines(caught: Iterable[warnings.WarningMessage]) -> set[str]:
    """Return the lines that torch's tracer warned of."""
    warned = [one for one in caught if issubclass(one.category, TracerWarning) and _is_users(one.filename)]
    return {_line(one.filename, one.lineno) for one in warned}


def _is_users(file: str) -> bool:
    return not any(Path(file).is_relative_to(folder) for folder in _NOT_USERS)


def _line(file: str, number: int | None) -> str:
    return f"{Path(file).name}:{number}"
