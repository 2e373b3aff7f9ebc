"""The artefact: one ONNX file that carries its card and its checksum."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto
from pydantic import ValidationError

from export.errors import ArtefactError
from models.card import CARD_KEY, SEAL_KEY, ModelCard, SealError, check_seal, seal, seal_placeholder

FILE_NAME = "model.onnx"


def artefact_bytes(model: ModelProto, card: ModelCard) -> bytes:
    """Return the file of a model and its card, sealed; the same model and card give the same bytes."""
    sealed = ModelProto()
    sealed.CopyFrom(model)
    onnx.helper.set_model_props(sealed, {CARD_KEY: card.model_dump_json(), SEAL_KEY: seal_placeholder()})
    return seal(sealed.SerializeToString(deterministic=True))


def read_card(path: Path | str) -> ModelCard:
    """Return the card of an artefact, once its checksum and its graph are seen to be whole.

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
        properties = {entry.key: entry.value for entry in model.metadata_props}
        return ModelCard.model_validate_json(properties[CARD_KEY])
    except SealError as exc:
        raise ArtefactError(path, str(exc)) from exc
    except (DecodeError, KeyError, ValidationError) as exc:
        raise ArtefactError(path, "its checksum is right but it holds no card that can be read") from exc
