"""The model card."""

import pytest
from pydantic import ValidationError

from models.card import ModelCard, Parity, StateSpec, TensorSpec


def card() -> ModelCard:
    return ModelCard(
        name="m",
        version=1,
        cell="lstm",
        inputs=(TensorSpec(name="x", dtype="float32", shape=(3,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1,)),),
        states=(StateSpec(name="h", dtype="float32", shape=(4,)),),
        weights_sha256="0" * 64,
        parity=Parity(tolerance=1e-5, errors={}),
        created_by="test",
    )


def test_an_older_card_is_read() -> None:
    """A card with the field `sampling`, no longer used, is read without it; other unknown fields are refused."""
    fields = card().model_dump(mode="json")
    assert ModelCard.model_validate(fields | {"sampling": {}}) == card()
    with pytest.raises(ValidationError, match="unknown"):
        ModelCard.model_validate(fields | {"unknown": {}})
