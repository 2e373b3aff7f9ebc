"""The model card."""

from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from models.card import Dtype, ModelCard, Parity, StateSpec, TensorSpec


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


def test_the_bytes_of_a_state_are_counted() -> None:
    """Each dtype has numpy's size; a state of no axes is one value."""
    dtypes = get_args(Dtype)
    states = tuple(StateSpec(name=dtype, shape=(2, 3), dtype=dtype) for dtype in dtypes)
    states = (*states, StateSpec(name="count", shape=(), dtype="int64"))
    expected = sum(6 * np.dtype(dtype).itemsize for dtype in dtypes) + 8
    assert card().model_copy(update={"states": states}).state_bytes == expected
