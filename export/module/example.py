"""The inputs of a user's module: their shapes, time and batch axes, and random ones."""

import math
import re
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from export.adopt.options import MOST
from export.module.errors import ModuleError
from export.sentences import clipped

_DTYPES = {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}
_MOST_DIGITS = 9
"""The most digits of a size or a number of ids, so that int32 holds it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One input of the module's forward: `step` is its shape without batch and time.

    The batch is axis 0 and the time axis 1, or the other way round with `time_first`. Integers lie in [0, `ids`).
    `is_single` is whether it was written with a time of 1, as for a module of single steps.
    """

    step: tuple[int, ...]
    dtype: str = "float32"
    time_first: bool = False
    ids: int = 2
    is_single: bool = False

    @classmethod
    def parse(cls, text: str, *, time_first: bool = False) -> Self:
        """Read BATCHxTIMExFEATURES, with :DTYPE behind it where it is not float32, and the number of ids behind that.

        Raises:
            ModuleError: It is not written like that.
        """
        match = re.fullmatch(r"(\d+(?:x\d+)+)(?::([a-z0-9]+))?(?::(\d+))?", text)
        if match is None or (match[2] or "float32") not in _DTYPES:
            kinds = ", ".join(_DTYPES)
            raise ModuleError(
                f"--example {clipped(text)}: expected BATCHxTIMExFEATURES like 1x20x40, "
                f"or 1x20:int64:1000 for ids below 1000 (one of {kinds})"
            )
        numbers = [*match[1].split("x"), match[3] or "2"]
        if max(map(len, numbers)) > _MOST_DIGITS:
            raise ModuleError(f"--example {clipped(text)}: a number has more than {_MOST_DIGITS} digits")
        *sizes, ids = map(int, numbers)
        if min(sizes) < 1:
            raise ModuleError(f"--example {text}: every size must be at least 1")
        if math.prod(sizes[2:]) > MOST:
            raise ModuleError(f"--example {text}: a step may hold at most {MOST:,} values")
        if ids < 1:
            raise ModuleError(f"--example {text}: there must be at least 1 id")
        is_single = sizes[0 if time_first else 1] == 1
        return cls(tuple(sizes[2:]), match[2] or "float32", time_first, ids, is_single)

    @property
    def batch_axis(self) -> int:
        return 1 if self.time_first else 0

    @property
    def time_axis(self) -> int:
        return 0 if self.time_first else 1

    def draw(self, batch: int, time: int, generator: torch.Generator) -> Tensor:
        """Return a random input for a batch and a number of steps."""
        leading = (time, batch) if self.time_first else (batch, time)
        dtype = _DTYPES[self.dtype]
        if dtype.is_floating_point:
            return torch.randn((*leading, *self.step), generator=generator)
        return torch.randint(0, 2 if dtype is torch.bool else self.ids, (*leading, *self.step), generator=generator).to(
            dtype
        )

    def first_steps(self, x: Tensor, steps: int) -> Tensor:
        """Return the first steps of an input."""
        return x.narrow(self.time_axis, 0, steps)
