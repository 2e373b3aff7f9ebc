"""The lines of a user's code where Python sees a tensor's value: a trace holds only what they did with it once."""

import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning
from torch.overrides import TorchFunctionMode

_UNTOLD = frozenset({torch.equal, torch.allclose, torch.is_nonzero, Tensor.equal, Tensor.allclose, Tensor.is_nonzero})
"""What gives Python a value without a warning from torch's tracer."""
_NOT_THEIRS = (Path(torch.__file__).parent, Path(__file__).parent)


class Comparisons(TorchFunctionMode):
    """Gather the lines that compare whole tensors, in a run that is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one of torch's functions, and note the line that called it."""
        if func in _UNTOLD:
            theirs = [frame for frame in traceback.extract_stack() if _is_theirs(frame.filename)]
            self.lines |= {_line(frame.filename, frame.lineno) for frame in theirs[-1:]}
        return func(*args, **(kwargs or {}))


def lines_told(caught: Iterable[warnings.WarningMessage]) -> set[str]:
    """Return the lines that torch's tracer warned of."""
    told = [one for one in caught if issubclass(one.category, TracerWarning) and _is_theirs(one.filename)]
    return {_line(one.filename, one.lineno) for one in told}


def _is_theirs(file: str) -> bool:
    return not any(Path(file).is_relative_to(folder) for folder in _NOT_THEIRS)


def _line(file: str, number: int | None) -> str:
    return f"{Path(file).name}:{number}"
