"""What the user says about a foreign model, read from the command line."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.adopt.errors import BadOptionError
from export.figure import Array
from export.sentences import clipped

MOST = 2**24
"""The most values that one step of an input may hold."""
MOST_BEFORE = 2**17
"""The most values that an overlap may have: every session stores them, and every step runs over them."""


@dataclass(frozen=True, slots=True)
class AdoptOptions:
    """What is known about a model beforehand, by the names of its inputs.

    states: input → output, an empty output for an input that is no state. batch_axes: input or output → axis.
    constants: input → value. overlaps: input → how many values of the step before precede each step. steps:
    input → shape of one step, without the batch. initial: input → value before the first step. time_axes: input or
    output → axis that counts steps, None for none; where a name is missing the axis is guessed. frame_by_frame: steps
    are served one by one, though the file's run over a whole sequence differs from them.
    """

    states: dict[str, str] = field(default_factory=dict)
    batch_axes: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    overlaps: dict[str, int] = field(default_factory=dict)
    steps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    initial: dict[str, Array] = field(default_factory=dict)
    time_axes: dict[str, int | None] = field(default_factory=dict)
    frame_by_frame: bool = False

    @classmethod
    def parse(
        cls,
        states: Iterable[str] = (),
        batch_axes: Iterable[str] = (),
        constants: Iterable[str] = (),
        overlaps: Iterable[str] = (),
        steps: Iterable[str] = (),
        initial: Path | None = None,
        *,
        frame_by_frame: bool = False,
    ) -> "AdoptOptions":
        """Read the options as they are written on the command line.

        Raises:
            BadOptionError: One of them cannot be read, or is given twice for a name.
        """
        return cls(
            states=_named("--state", states, "=", "IN=OUT"),
            batch_axes={
                name: _count("--batch-axis", f"{name}:{value}", value, 0)
                for name, value in _named("--batch-axis", batch_axes, ":", "NAME:AXIS").items()
            },
            constants={
                name: _value(f"{name}={value}", value)
                for name, value in _named("--constant", constants, "=", "NAME=VALUE").items()
            },
            overlaps={
                name: _count("--overlap", f"{name}:{value}", value, 1)
                for name, value in _named("--overlap", overlaps, ":", "NAME:SAMPLES").items()
            },
            steps={
                name: _sizes(f"{name}={value}", value)
                for name, value in _named("--step", steps, "=", "NAME=SIZE or NAME=SIZExSIZE").items()
            },
            initial={} if initial is None else read_initial(initial),
            frame_by_frame=frame_by_frame,
        )


def read_initial(path: Path) -> dict[str, Array]:
    """Read state input → value from an .npz file or a JSON object of nested arrays.

    Raises:
        BadOptionError: It is neither, or holds values that are not finite numbers.
    """
    option = f"--initial {path}"
    try:
        if path.suffix == ".json":
            values = {name: np.asarray(value) for name, value in json.loads(path.read_text()).items()}
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                values = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as exc:  # for damaged files numpy, zipfile and the decompressors raise many types
        raise BadOptionError(option, "cannot be read as an .npz file or a JSON object of arrays") from exc
    for name, value in values.items():
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise BadOptionError(option, f"the value of {name!r} is not made of finite numbers")
    return values


def _named(option: str, texts: Iterable[str], mark: str, expected: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        # names may hold colons: the last one counts
        name, marked, value = text.rpartition(mark) if mark == ":" else text.partition(mark)
        if not marked or not name:
            raise BadOptionError(f"{option} {text}", f"expected {expected}")
        if name in found:
            raise BadOptionError(f"{option} {text}", f"{clipped(name)} is settled by an earlier {option}")
        found[name] = value
    return found


def _count(option: str, text: str, value: str, least: int) -> int:
    number = int(value) if value.isdecimal() and value.isascii() and len(value) <= len(str(MOST)) else -1
    if not least <= number <= MOST:
        raise BadOptionError(
            f"{option} {text}", f"expected a whole number from {least} to {MOST:,}, got {clipped(value)!r}"
        )
    return number


def _sizes(text: str, value: str) -> tuple[int, ...]:
    sizes = tuple(_count("--step", text, size, 1) for size in value.split("x"))
    if math.prod(sizes) > MOST:
        raise BadOptionError(f"--step {text}", f"a step may hold at most {MOST:,} values")
    return sizes


def _value(text: str, value: str) -> Array:
    try:
        array = np.asarray(json.loads(value))
    except (ValueError, RecursionError) as exc:
        raise BadOptionError(
            f"--constant {text}", f"{clipped(value)!r} is no number, true, false or array of them"
        ) from exc
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise BadOptionError(f"--constant {text}", f"{clipped(value)!r} is not made of finite numbers")
    return array
