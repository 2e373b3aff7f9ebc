"""A repository loads every model of its folder or none, and unloads versions that are no longer served."""

from pathlib import Path

import pytest

from service.engine.chunk import Chunk
from service.errors import ModelNotFound, RefusedToStart
from service.repository.served_model import ModelState
from tests.service.repository.conftest import load


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without an artefact is refused with the path that was expected."""
    with pytest.raises(RefusedToStart, match=r"MODEL/VERSION/model\.onnx"):
        load(tmp_path)


def test_too_little_memory_for_one_session_is_refused(artifacts: Path) -> None:
    """State memory that is too small for one session is refused with the flag to change."""
    with pytest.raises(RefusedToStart, match="raise --state-memory"):
        load(artifacts, state_memory=100_000)


async def test_an_unloaded_model_stays_unloaded_until_it_is_loaded(artifacts: Path) -> None:
    """An unloaded model is closed at once, and is served again only when it is loaded by name."""
    repository = load(artifacts)
    model = repository.find("lstm")
    await repository.unload("lstm")
    assert model.state is ModelState.CLOSED
    assert repository.find_version("lstm", 1) is None
    await repository.refresh()
    with pytest.raises(ModelNotFound):
        repository.find("lstm")
    assert ("lstm", 1, "UNAVAILABLE", "unloaded") in await repository.index()
    await repository.load("lstm")
    assert repository.find("lstm").state is ModelState.SERVING
    assert repository.find_version("lstm", 1) is repository.find("lstm")
    repository.close()


async def test_an_unloaded_model_answers_queued_work(artifacts: Path) -> None:
    """An unloaded model answers the chunks that are queued, and is closed after the last one."""
    repository = load(artifacts)
    model = repository.find("lstm")
    chunk = Chunk(None, (bytes(12),), 1, keep=False)
    answer = model.batcher.submit((chunk,))
    await repository.unload("lstm")
    assert model.state.name == "RETIRED"
    assert ("lstm", 1, "UNLOADING", "replaced") in await repository.index()
    await answer
    assert chunk.error is None
    repository.retire()
    assert model.state is ModelState.CLOSED
    repository.close()
