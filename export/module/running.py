"""Runs of a user's own code: what it prints is dropped, what it raises becomes a sentence."""

import io
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.module.errors import DoesNotRunError, NotStreamableError
from export.sentences import foreign_error

RAISED = (Exception, SystemExit)
"""What a user's own code may raise, except Ctrl-C."""


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what a user's code prints and torch's warnings: the module runs a hundred times."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


def said(exc: BaseException) -> str:
    """Return the message of an error in a user's code, or the line that raised it where there is none."""
    last = traceback.extract_tb(exc.__traceback__)[-1]
    return f"{type(exc).__name__}: {foreign_error(exc) or f'{Path(last.filename).name}:{last.lineno}'}"


def run_quietly(module: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """Run a module without gradients, and without what it prints.

    Raises:
        DoesNotRunError: It does not run.
    """
    try:
        with quiet(), torch.no_grad():
            return module(*inputs)
    except NotStreamableError:
        raise
    except RAISED as exc:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
        raise DoesNotRunError(
            f"the module does not run on {shapes}, as it must on any number of rows and steps: {said(exc)}"
        ) from exc
