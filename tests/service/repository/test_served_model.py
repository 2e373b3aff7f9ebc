"""A served model goes through its states in one direction."""

import pytest

from service.app import Service
from service.errors import ModelReplaced
from service.repository.served_model import ModelState, ServedModel


@pytest.fixture
def model(service: Service) -> ServedModel:
    """Return a model that has been taken out of its repository."""
    return service.repository.models.pop("lstm")


def test_a_model_is_served_replaced_retired_and_closed(model: ServedModel) -> None:
    """A model can be served, replaced, retired and closed in this sequence, and is retired in the last two."""
    states = [(model.state, model.retired)]
    for change in (model.replace, model.retire, lambda: model.close(ModelReplaced(None))):
        change()
        states.append((model.state, model.retired))
    assert states == [
        (ModelState.SERVING, False),
        (ModelState.REPLACED, False),
        (ModelState.RETIRED, True),
        (ModelState.CLOSED, True),
    ]


def test_an_illegal_transition_says_what_was_found(model: ServedModel) -> None:
    """A transition that is not allowed raises ValueError with the state that was found, and changes nothing."""
    model.retire()
    with pytest.raises(
        ValueError, match="REPLACED: expected a model that is SERVING, found <ServedModel lstm 1 RETIRED"
    ):
        model.replace()
    with pytest.raises(ValueError, match="RETIRED: expected a model that is SERVING or REPLACED"):
        model.retire()
    assert model.state is ModelState.RETIRED
    model.close(ModelReplaced(None))
    with pytest.raises(ValueError, match=r"CLOSED: expected .* found <ServedModel lstm 1 CLOSED"):
        model.close(ModelReplaced(None))


def test_a_model_knows_its_memory(model: ServedModel) -> None:
    """A model's memory is that of its arena, and its state bytes are those of the leased rows."""
    assert model.state_bytes == model.card.state_bytes > 0
    assert model.memory == sum(rows.nbytes for rows in model.arena.rows.values())
    model.arena.slots.lease()
    assert model.counts()["state_bytes"] == model.state_bytes
    assert model.last_counts()["state_bytes"] == 0
    model.close(ModelReplaced(None))
