"""The artefact: one ONNX file that carries its card and its checksum."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto
from pydantic import ValidationError

from export.errors import ArtefactError, DestinationExistsError
from models.card import CARD_KEY, SEAL_KEY, ModelCard, SealError, check_seal, seal, seal_placeholder

FILE_NAME = "model.onnx"


def artefact_bytes(model: ModelProto, card: ModelCard) -> bytes:
    """Return the file of a model and its card, with its checksum; the same model and card give the same bytes."""
    sealed = ModelProto()
    sealed.CopyFrom(model)
    onnx.helper.set_model_props(sealed, {CARD_KEY: card.model_dump_json(), SEAL_KEY: seal_placeholder()})
    return seal(sealed.SerializeToString(deterministic=True))


def read_card(path: Path | str) -> ModelCard:
    """Return the card of an artefact, after checking that the file is complete and unchanged.

    Raises:
        ArtefactError: The file is missing, damaged, or not an artefact.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ArtefactError(path, f"cannot be read ({exc.strerror})") from exc
    try:
        check_seal(data)
        model = onnx.load_model_from_string(data)
        properties = {prop.key: prop.value for prop in model.metadata_props}
        return ModelCard.model_validate_json(properties[CARD_KEY])
    except SealError as exc:
        raise ArtefactError(path, str(exc)) from exc
    except (DecodeError, KeyError, ValidationError) as exc:
        raise ArtefactError(path, "its checksum is right but it holds no card that can be read") from exc


def save_artefact(folder: Path, model: ModelProto, card: ModelCard, *, force: bool = False) -> Path:
    """Write a model and its card to a folder and return the file; all of it is written, or nothing.

    Raises:
        DestinationExistsError: The folder is not empty, and `force` is not given.
    """
    with _temporary_folder(folder) as temporary:
        file = temporary / FILE_NAME
        file.write_bytes(artefact_bytes(model, card))
        read_card(file)
        _move(temporary, folder, force=force)
    return folder / FILE_NAME


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Make a folder beside another one, on the same file system; remove it, and parents that were made for it."""
    made = [parent for parent in (folder.parent, *folder.parent.parents) if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    temporary.chmod(0o755)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()


def _move(temporary: Path, folder: Path, *, force: bool) -> None:
    """Rename the artefact once, so that a reader finds the old one, or the new one, or none."""
    if force and folder.exists():
        os.replace(temporary / FILE_NAME, folder / FILE_NAME)
        return
    try:
        os.rename(temporary, folder)
    except OSError as exc:
        # another export has written the same version in the meantime
        raise DestinationExistsError(folder) from exc
