"""Artefacts that have been changed, and folders to load them from."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from models.card import SEAL_KEY, seal, seal_placeholder
from service.repository.repository import Repository
from service.sessions.commit import MemoryCommitter
from service.settings import Settings
from tests.fakes import FakeClock

Rewrite = Callable[[Callable[[onnx.ModelProto], None]], Path]


def load(folder: Path, **settings: object) -> Repository:
    repository = Repository(Settings(artifacts=folder, **settings), MemoryCommitter(), FakeClock())  # type: ignore[arg-type]
    repository.open()
    return repository


@pytest.fixture
def rewrite(artifacts: Path, tmp_path: Path) -> Rewrite:
    """Return a function that changes the file of the model lstm, seals it again, and returns the folder to load."""

    def change(edit: Callable[[onnx.ModelProto], None]) -> Path:
        model = onnx.load(artifacts / "lstm/1/model.onnx")
        edit(model)
        properties = {p.key: p.value for p in model.metadata_props} | {SEAL_KEY: seal_placeholder()}
        helper.set_model_props(model, properties)
        target = tmp_path / "lstm/1/model.onnx"
        target.parent.mkdir(parents=True)
        target.write_bytes(seal(model.SerializeToString()))
        return tmp_path

    return change
