"""TorchScript: compiled modules and their files are refused, with what to give instead."""

import zipfile
from pathlib import Path

import torch
from torch import nn

from export.module.errors import ModuleError

_INSTEAD = (
    "is TorchScript, compiled code in which recurrent layers and their states cannot be found: give the Python class "
    "that it was made from as PACKAGE.MODULE:FACTORY, and its weights, saved by "
    'torch.save(torch.jit.load("FILE").state_dict(), "weights.pt"), by --weights'
)


def is_torch_script(path: Path) -> bool:
    """Return whether a file is what torch.jit.save writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in names)


def refuse_torch_script(what: object, found: nn.Module | Path) -> None:
    """Refuse a compiled module, or a file that holds one.

    Raises:
        ModuleError: It is one.
    """
    compiled = is_torch_script(found) if isinstance(found, Path) else isinstance(found, torch.jit.ScriptModule)
    if compiled:
        raise ModuleError(f"{what} {_INSTEAD}")
