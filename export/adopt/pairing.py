"""Pairs of an input and an output that is fed back to it, and which pairs are possible."""

from dataclasses import dataclass

from export.adopt.foreign_model import Port
from export.adopt.names import is_data


@dataclass(frozen=True, slots=True)
class Pair:
    """An input, the output that is fed back to it, and why."""

    source: str
    target: str
    reason: str
    sure: bool = True
    """Whether names say so; a pair by shape alone must be confirmed by a run."""
    alone: bool = False
    """Whether it was taken because nothing else was left, though the two names do not agree."""


def fitting(source: Port, target: Port) -> bool:
    """Return whether an output may be fed to an input by what the file declares."""
    if source.dtype != target.dtype:
        return False
    if not target.dims:
        return not source.dims
    if len(source.dims) != len(target.dims):
        return False
    return all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(source.dims, target.dims, strict=True)
    )


def left_of(
    rest: list[Port], outputs: dict[str, Port], fits: dict[str, list[str]], pairs: list[Pair]
) -> dict[str, list[str]]:
    """Return input → the outputs that could feed it and are not fed back yet."""
    targets = {pair.target for pair in pairs}
    return {
        port.name: likely_of([outputs[name] for name in fits[port.name] if name not in targets], port) for port in rest
    }


def likely_of(fits: list[Port], source: Port) -> list[str]:
    """Return the names of the outputs that fit, without those of other fixed sizes or named as data, if any is left."""
    fixed = [dim if isinstance(dim, int) else None for dim in source.dims]
    same = [port for port in fits if [dim if isinstance(dim, int) else None for dim in port.dims] == fixed] or fits
    return [port.name for port in same if not is_data(port.name)] or [port.name for port in same]


def settled_of(pairs: list[Pair]) -> dict[str, str]:
    return {pair.source: pair.target for pair in pairs}
