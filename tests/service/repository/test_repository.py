"""A repository loads every model of its folder, or none, and lets versions go that are not served any more."""

from pathlib import Path

import pytest

from service.engine.chunk import Chunk
from service.errors import ModelNotFound, RefusedToStart
from service.repository.served_model import ModelState
from tests.service.repository.conftest import load


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A mistyped mount is told, not served as nothing."""
    with pytest.raises(RefusedToStart, match=r"MODEL/VERSION/model\.onnx"):
        load(tmp_path)


def test_memory_for_not_one_session_is_refused(artifacts: Path) -> None:
    """Too little state memory is told with the figures."""
    with pytest.raises(RefusedToStart, match="raise --state-memory"):
        load(artifacts, state_memory=100_000)


async def test_an_unloaded_model_is_kept_out_until_it_is_loaded(artifacts: Path) -> None:
    """It is closed at once, and the folder is looked at in vain until its name is asked for."""
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


async def test_an_unloaded_model_does_the_work_that_waits(artifacts: Path) -> None:
    """It has ended its sessions, and is closed when the last chunk has been answered."""
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
