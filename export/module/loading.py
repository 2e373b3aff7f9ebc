"""Make a user's module and load its weights."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from export.module.errors import FactoryError, WeightsError
from export.sentences import foreign_error, printable


def make_module(factory: str) -> nn.Module:
    """Return the module that PACKAGE.MODULE:FACTORY makes when called without arguments.

    Raises:
        FactoryError: There is no such factory, it fails, or it returns something else.
    """
    package, found, name = factory.partition(":")
    if not found or not package or not name:
        raise FactoryError(factory, "expected PACKAGE.MODULE:FACTORY")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = importlib.import_module(package)
        for part in name.split("."):
            made = getattr(made, part)
        module = made() if callable(made) and not isinstance(made, nn.Module) else made
    except (Exception, SystemExit) as exc:  # whatever the user's own code raises
        raise FactoryError(factory, f"cannot be called: {type(exc).__name__}: {foreign_error(exc)}") from exc
    if not isinstance(module, nn.Module):
        raise FactoryError(factory, f"returned a {type(module).__name__}, no torch.nn.Module")
    return module.float().cpu().eval()


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a .safetensors file, or a .pt file through torch's loader that runs no code.

    Raises:
        WeightsError: The file is no such file, its weights do not fit the module, or one of them is not finite.
    """
    weights = _read(path)
    try:
        module.load_state_dict(weights)
    except RuntimeError as exc:
        raise WeightsError(path, printable(exc)) from exc
    check_weights(module, path)


def check_weights(module: nn.Module, where: object) -> None:
    """Raise WeightsError if a parameter holds NaN or infinity, or a buffer NaN: masks hold infinity rightly."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and torch.isnan(tensor).any():
            raise WeightsError(where, f"the weight {name!r} holds NaN")
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and torch.isinf(parameter).any():
            raise WeightsError(where, f"the weight {name!r} holds infinity")


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(path, "there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch's loader raises a dozen types, with advice that would run what stands in the file
        raise WeightsError(
            path,
            "not a whole file of weights alone: it is damaged, truncated or of another kind, or holds other Python "
            "objects than tensors, which are never run. Save the module's state_dict() and nothing else",
        ) from exc
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise WeightsError(path, "expected a state_dict: names and tensors")
    return found
