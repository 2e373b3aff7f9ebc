"""The tensors in a state or in what forward returns, nested in tuples, lists, dicts, NamedTuples and dataclasses."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

Path = tuple[int | str, ...]
"""Where something stands in what forward returns: indices, keys and names of fields, from the outside in."""


def children(value: Any) -> list[tuple[int | str, Any]]:
    """Return what a container holds, each with its index, key or name of field; nothing of what is no container."""
    if isinstance(value, dict):
        return [(key if isinstance(key, int) else str(key), held) for key, held in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(one.name, getattr(value, one.name)) for one in fields(value)]
    return []


def tensors_in(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """Return all tensors with the path to each."""
    if isinstance(value, Tensor):
        return [(path, value)]
    return [found for key, held in children(value) for found in tensors_in(held, (*path, key))]


def at(value: Any, path: Path) -> Any:
    """Return what stands at a path.

    Raises:
        LookupError: Nothing does.
    """
    for key in path:
        value = dict(children(value))[key]
    return value


def with_tensors(template: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a copy of a template with other tensors in it, in the sequence of `tensors_in`."""
    if isinstance(template, Tensor):
        return next(tensors)
    if isinstance(template, dict):
        copied = template.copy()
        copied.update({key: with_tensors(held, tensors) for key, held in template.items()})
        return copied
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*(with_tensors(held, tensors) for held in template))
    if isinstance(template, tuple | list):
        return type(template)(with_tensors(held, tensors) for held in template)
    if is_dataclass(template) and not isinstance(template, type):
        return replace(template, **{str(key): with_tensors(held, tensors) for key, held in children(template)})
    return template


def name_of(path: Path) -> str:
    """Return a name made of a path: indices are numbered y0, y1; the empty path is y."""
    return "_".join(f"y{key}" if isinstance(key, int) else key for key in path) or "y"
