"""A model file that is damaged, or not what its card says, is refused with a sentence; the service does not start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from models.card import CARD_KEY, SEAL_KEY, seal, seal_placeholder
from service.errors import ArtefactRefused, RefusedToStart
from service.repository.repository import Repository, check_provider, newest_artefacts
from service.sessions.commit import MemoryCommitter
from service.settings import Settings
from tests.fakes import FakeClock


def load(folder: Path, **settings: object) -> Repository:
    repository = Repository(Settings(artifacts=folder, **settings), MemoryCommitter(), FakeClock())  # type: ignore[arg-type]
    repository.open()
    return repository


@pytest.fixture
def rewrite(artifacts: Path, tmp_path: Path) -> Callable[[Callable[[onnx.ModelProto], None]], Path]:
    """Return a function that changes the lstm's file, seals it anew and returns the folder to load."""

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


def edit_card(model: onnx.ModelProto, **changes: object) -> None:
    for prop in model.metadata_props:
        if prop.key == CARD_KEY:
            prop.value = json.dumps(json.loads(prop.value) | changes)


def test_the_highest_version_is_served(artifacts: Path, tmp_path: Path) -> None:
    """Versions are compared as numbers; folders that are none are passed over."""
    for version in ("1", "9", "10", "latest", ".tmp"):
        shutil.copytree(artifacts / "lstm/1", tmp_path / "lstm" / version)
    assert newest_artefacts(tmp_path)["lstm"][0] == 10
    assert load(tmp_path).find("lstm").card.version == 10


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A mistyped mount is told, not served as nothing."""
    with pytest.raises(RefusedToStart, match=r"MODEL/VERSION/model\.onnx"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_truncated_file_is_refused(artifacts: Path, tmp_path: Path, keep: int) -> None:
    """Any missing byte is noticed."""
    target = tmp_path / "lstm/1/model.onnx"
    target.parent.mkdir(parents=True)
    target.write_bytes((artifacts / "lstm/1/model.onnx").read_bytes()[:keep])
    with pytest.raises(ArtefactRefused, match="checksum"):
        load(tmp_path)


def test_flipped_bits_are_refused(artifacts: Path, tmp_path: Path) -> None:
    """Wherever a bit flips, in a weight too, the file is refused."""
    data = (artifacts / "lstm/1/model.onnx").read_bytes()
    target = tmp_path / "lstm/1/model.onnx"
    target.parent.mkdir(parents=True)
    for at in range(0, len(data), len(data) // 97):
        target.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(ArtefactRefused, match="checksum"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": [{"name": "z", "shape": [3]}]}, "expected an input z"),
        ({"inputs": [{"name": "x", "shape": [4]}]}, r"input x: expected tensor\(float\) \[\?, \?, 4\]"),
        ({"inputs": [{"name": "x", "shape": [3], "dtype": "int64"}]}, "input x: expected tensor.int64"),
        ({"states": [{"name": "layer0.h", "shape": [8]}]}, "that the card does not know"),
        ({"ragged": False}, "input lengths that the card does not know"),
        ({"outputs": []}, "outputs"),
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_card_that_disagrees_is_refused(
    rewrite: Callable[[Callable[[onnx.ModelProto], None]], Path], changes: dict[str, object], said: str
) -> None:
    """The sentence says what was expected and what came."""
    folder = rewrite(lambda model: edit_card(model, **changes))
    with pytest.raises(ArtefactRefused, match=said):
        load(folder)


def test_a_file_without_a_card_is_refused(rewrite: Callable[[Callable[[onnx.ModelProto], None]], Path]) -> None:
    """An ONNX file that is sealed but tells nothing of itself is no artefact."""

    def drop(model: onnx.ModelProto) -> None:
        kept = [prop for prop in model.metadata_props if prop.key != CARD_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    with pytest.raises(ArtefactRefused, match="expected a model card"):
        load(rewrite(drop))


def test_a_graph_that_copies_its_arena_is_refused(
    rewrite: Callable[[Callable[[onnx.ModelProto], None]], Path],
) -> None:
    """An arena that passes through another node is copied at every step; measuring shows it."""

    def copy_arena(model: onnx.ModelProto) -> None:
        scatter = next(node for node in model.graph.node if node.op_type == "ScatterND")
        twice = helper.make_node("Mul", [scatter.input[0], "two"], ["doubled"], "double")
        half = helper.make_node("Div", ["doubled", "two"], ["copied"], "halve")
        model.graph.initializer.append(helper.make_tensor("two", onnx.TensorProto.FLOAT, [1], [2]))
        at = list(model.graph.node).index(scatter)
        scatter.input[0] = "copied"
        model.graph.node.insert(at, half)
        model.graph.node.insert(at, twice)

    with pytest.raises(ArtefactRefused, match="copies its arena"):
        load(rewrite(copy_arena))


def test_a_graph_that_writes_elsewhere_is_refused(
    rewrite: Callable[[Callable[[onnx.ModelProto], None]], Path],
) -> None:
    """A step that would change another session's row is found before anybody has one."""

    def shift(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("two", onnx.TensorProto.INT64, [1], [2]))
        model.graph.node.insert(0, helper.make_node("Add", ["write_slots", "two"], ["elsewhere"], "shift"))
        for node in list(model.graph.node)[1:]:
            for index, name in enumerate(node.input):
                if name == "write_slots":
                    node.input[index] = "elsewhere"

    with pytest.raises(ArtefactRefused, match="not to write"):
        load(rewrite(shift))


def test_memory_for_not_one_session_is_refused(artifacts: Path) -> None:
    """Too little state memory is told with the figures."""
    with pytest.raises(RefusedToStart, match="raise --state-memory"):
        load(artifacts, state_memory=100_000)


def test_a_missing_provider_is_refused() -> None:
    """CUDA is asked for by name, and its absence is one sentence."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        check_provider("cuda")
    else:
        with pytest.raises(RefusedToStart, match="needs CUDAExecutionProvider"):
            check_provider("cuda")
