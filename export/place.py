"""Where an artefact stands: the folder ROOT/NAME/VERSION, as the service reads it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from export.errors import BadTargetError, TargetExistsError

_MOST_DIGITS = 18
"""Of a version: the service passes over longer ones."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for one version of a model."""

    root: Path
    name: str
    version: int

    @classmethod
    def parse(cls, out: Path) -> Self:
        """Read artifacts/NAME/VERSION.

        Raises:
            BadTargetError: It is not of this form.
        """
        if len(out.parts) < 2:
            raise BadTargetError(out, "it does not say which model and which version")
        whole = out.absolute()
        _check_names(out, whole.parent.name, whole.name)
        return cls(whole.parent.parent, whole.parent.name, int(whole.name))

    @property
    def folder(self) -> Path:
        """Return the folder."""
        return self.root / self.name / str(self.version)


def check_target(target: Path, *, force: bool = False) -> None:
    """Raise unless an artefact may be written to the folder `target`, NAME/VERSION.

    Raises:
        BadTargetError: VERSION is not a positive integer, NAME is not a model's name, or a file is in the way.
        TargetExistsError: There is an artefact, and `force` is not given.
    """
    _check_names(target, target.parent.name, target.name)
    blocked = next((path for path in (target, *target.parents) if path.exists() and not path.is_dir()), None)
    if blocked is not None:
        raise BadTargetError(target, f"{blocked} is not a folder")
    if target.exists() and any(target.iterdir()) and not force:
        raise TargetExistsError(target)


def _check_names(target: Path, name: str, version: str) -> None:
    if not re.fullmatch(r"[1-9][0-9]*", version):
        raise BadTargetError(target, f"the last part must be the version, a positive integer, and is {version!r}")
    if len(version) > _MOST_DIGITS:
        raise BadTargetError(
            target, f"the version has {len(version)} digits, and the service reads no more than {_MOST_DIGITS}"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name):
        raise BadTargetError(target, f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-'")
