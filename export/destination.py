"""Where an artefact is written: the folder ROOT/NAME/VERSION, as the service reads it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from export.errors import BadDestinationError, DestinationExistsError

_MOST_DIGITS = 18
"""Of a version: the service ignores longer ones."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The folder for one version of a model."""

    root: Path
    name: str
    version: int

    @classmethod
    def parse(cls, out: Path) -> Self:
        """Read artifacts/NAME/VERSION.

        Raises:
            BadDestinationError: It does not end in a model's name and a version.
        """
        if len(out.parts) < 2:
            raise BadDestinationError(out, "it does not say which model and which version")
        whole = out.absolute()
        _check_names(out, whole.parent.name, whole.name)
        return cls(whole.parent.parent, whole.parent.name, int(whole.name))

    @property
    def folder(self) -> Path:
        """Return the folder."""
        return self.root / self.name / str(self.version)

    def check(self, *, force: bool = False) -> None:
        """Raise unless an artefact may be written here.

        Raises:
            BadDestinationError: The version is not a positive integer, the name is not a model's name, or a file
                is in the way.
            DestinationExistsError: There is an artefact, and `force` is not given.
        """
        folder = self.folder
        _check_names(folder, folder.parent.name, folder.name)
        blocked = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
        if blocked is not None:
            raise BadDestinationError(folder, f"{blocked} is not a folder")
        if folder.exists() and any(folder.iterdir()) and not force:
            raise DestinationExistsError(folder)


def _check_names(folder: Path, name: str, version: str) -> None:
    if not re.fullmatch(r"[1-9][0-9]*", version):
        raise BadDestinationError(folder, f"the last part must be the version, a positive integer, and is {version!r}")
    if len(version) > _MOST_DIGITS:
        raise BadDestinationError(
            folder, f"the version has {len(version)} digits, and the service reads no more than {_MOST_DIGITS}"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name):
        raise BadDestinationError(folder, f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-'")
