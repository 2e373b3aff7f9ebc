"""A user's module: made by its factory, with its weights loaded and checked."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from export.module.errors import FactoryError, ModuleError, WeightsError
from export.module.running import RAISED, quiet, said
from export.module.torch_script import refuse_torch_script
from export.sentences import printable


def make_module(factory: str) -> nn.Module:
    """Return the module that PACKAGE.MODULE:FACTORY makes when called without arguments.

    Raises:
        FactoryError: There is no such factory, it fails, or it does not return a module.
    """
    if ":" not in factory and Path(factory).is_file():
        refuse_torch_script(factory, Path(factory))
        raise FactoryError(
            factory,
            "is a file: give the Python class or function that makes the module as PACKAGE.MODULE:FACTORY, and a file "
            "of its weights by --weights",
        )
    package, found, name = factory.partition(":")
    if not found or not package or not name:
        raise FactoryError(factory, "expected PACKAGE.MODULE:FACTORY")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with quiet():
            made = importlib.import_module(package)
            for part in name.split("."):
                made = getattr(made, part)
            module = made() if callable(made) and not isinstance(made, nn.Module) else made
    except RAISED as exc:
        raise FactoryError(factory, f"cannot be called: {said(exc)}") from exc
    if not isinstance(module, nn.Module):
        raise FactoryError(factory, f"returned a {type(module).__name__}, no torch.nn.Module")
    refuse_torch_script(f"what {factory} returns", module)
    return prepared(unwrapped(module))


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside of what torch.compile or nn.DataParallel make of one."""
    inner: Any = module.module if isinstance(module, nn.DataParallel) else getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def prepared(module: nn.Module) -> nn.Module:
    """Return the module itself, in float32, on the CPU and in evaluation mode.

    Raises:
        ModuleError: It cannot be moved or converted.
    """
    try:
        with quiet():
            module.float().cpu().eval()
    except RAISED as exc:
        raise ModuleError(f"the module cannot be brought to float32, the CPU and out of training: {said(exc)}") from exc
    return module


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a .safetensors file, or a .pt file through torch's loader that runs no code.

    Raises:
        WeightsError: The file is of another kind, its weights do not fit the module, or one of them is not finite.
    """
    weights = _read(path)
    held = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    for name, tensor in weights.items():
        if tensor.is_complex():
            raise WeightsError(path, f"the weight {name!r} is complex, and its imaginary part would be lost")
        if name in held and held[name].is_floating_point() and not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(path, f"the weight {name!r} is of {dtype}, and the module's is a real number")
    try:
        with quiet():
            module.load_state_dict(weights)
    except RuntimeError as exc:
        raise WeightsError(path, printable(exc) + _prefixed(weights)) from exc
    except RAISED as exc:
        raise WeightsError(path, f"cannot be loaded: {said(exc)}") from exc
    check_weights(module, path)


def check_weights(module: nn.Module, where: object) -> None:
    """Check that all weights are dense tensors, without NaN, and that parameters are finite: a mask may hold infinity.

    Raises:
        WeightsError: One of them is not.
    """
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                where,
                f"{name!r} of its state_dict is a {type(value).__name__} and no tensor, as a quantised layer keeps its "
                "weights and get_extra_state what it likes: torch cannot export it",
            )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise WeightsError(where, f"the weight {name!r} has no shape yet: run the module once in its factory")
        if tensor.layout is not torch.strided:
            raise WeightsError(where, f"the weight {name!r} is sparse: only dense ones can be exported")
        if tensor.is_floating_point() and torch.isnan(tensor).any():
            raise WeightsError(where, f"the weight {name!r} holds NaN")
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and torch.isinf(parameter).any():
            raise WeightsError(where, f"the weight {name!r} holds infinity")


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(path, "is no file" if path.exists() else "there is no such file")
    refuse_torch_script(path, path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with quiet():
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch's loader raises many types, with advice that would run code in the file
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
        raise WeightsError(path, "expected a state_dict: names and tensors" + _inside(found))
    return found


def _inside(found: Any) -> str:
    """Return a hint where a checkpoint holds something that looks like a state_dict."""
    if not isinstance(found, Mapping):
        return ""
    inner = {name: value.values() for name, value in found.items() if isinstance(value, Mapping)}
    names = [name for name, values in inner.items() if any(isinstance(value, Tensor) for value in values)]
    return f"; save what stands under {' or '.join(map(repr, names))} alone" if names else ""


def _prefixed(weights: Mapping[str, Tensor]) -> str:
    """Return a hint where every name has the prefix of nn.DataParallel."""
    if not weights or not all(name.startswith("module.") for name in weights):
        return ""
    return " Every name in the file begins with 'module.', as nn.DataParallel has it: save its .module's state_dict()"
