"""A version of a model goes from state to state, each once, and never back."""

import pytest

from service.app import Service
from service.engine.arena import row_bytes
from service.errors import ModelReplaced
from service.repository.served_model import ModelState, ServedModel


@pytest.fixture
def model(service: Service) -> ServedModel:
    """A model that is in no repository any more."""
    return service.repository.models.pop("lstm")


def test_a_model_is_served_replaced_retired_and_closed(model: ServedModel) -> None:
    """Its sessions are over from its retirement on."""
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
    """No state follows on itself or on a later one; nothing has changed then."""
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
    """It is as many rows as the arena has slots; counts tell what is leased of it."""
    assert model.state_bytes == row_bytes(model.card.states) > 0
    assert model.memory == sum(rows.nbytes for rows in model.arena.rows.values())
    model.arena.slots.lease()
    assert model.counts()["state_bytes"] == model.state_bytes
    assert model.last_counts()["state_bytes"] == 0
    model.close(ModelReplaced(None))
