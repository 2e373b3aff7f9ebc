"""A model file that is damaged, or that its card does not describe, is refused with the reason."""

import json
import os
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest

from models.card import CARD_KEY
from service.errors import ArtefactRefused, RefusedToStart
from service.repository.artefact import check_provider, find_artefacts
from tests.service.repository.conftest import Rewrite, load


def edit_card(model: onnx.ModelProto, **changes: object) -> None:
    for prop in model.metadata_props:
        if prop.key == CARD_KEY:
            prop.value = json.dumps(json.loads(prop.value) | changes)


def test_the_highest_version_is_served(artifacts: Path, tmp_path: Path) -> None:
    """The highest version number is served, and folders whose name is no number are ignored."""
    for version in ("1", "9", "10", "latest", ".tmp"):
        shutil.copytree(artifacts / "lstm/1", tmp_path / "lstm" / version)
    assert [version for version, _ in find_artefacts(tmp_path)["lstm"]] == [10, 9, 1]
    assert load(tmp_path).find("lstm").card.version == 10


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_truncated_file_is_refused(artifacts: Path, tmp_path: Path, keep: int) -> None:
    """A file that ends too early is refused, wherever it ends."""
    target = tmp_path / "lstm/1/model.onnx"
    target.parent.mkdir(parents=True)
    target.write_bytes((artifacts / "lstm/1/model.onnx").read_bytes()[:keep])
    with pytest.raises(ArtefactRefused, match="checksum"):
        load(tmp_path)


def test_flipped_bits_are_refused(artifacts: Path, tmp_path: Path) -> None:
    """A file with a flipped bit is refused, wherever the bit is."""
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
def test_a_card_that_disagrees_is_refused(rewrite: Rewrite, changes: dict[str, object], said: str) -> None:
    """A card that does not match the graph is refused with what was expected."""
    folder = rewrite(lambda model: edit_card(model, **changes))
    with pytest.raises(ArtefactRefused, match=said):
        load(folder)


def test_a_file_without_a_card_is_refused(rewrite: Rewrite) -> None:
    """A sealed ONNX file without a card is refused."""

    def drop(model: onnx.ModelProto) -> None:
        kept = [prop for prop in model.metadata_props if prop.key != CARD_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    with pytest.raises(ArtefactRefused, match="expected a model card"):
        load(rewrite(drop))


def test_a_missing_provider_is_refused() -> None:
    """CUDA is refused if the installed onnxruntime does not have it."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        check_provider("cuda")
    else:
        with pytest.raises(RefusedToStart, match="needs CUDAExecutionProvider"):
            check_provider("cuda")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_file_that_is_no_regular_one_is_refused_at_once(artifacts: Path, tmp_path: Path, kind: str) -> None:
    """Neither a named pipe without a writer nor an endless device is waited for or read."""
    target = tmp_path / "lstm/1/model.onnx"
    target.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("/dev/zero")
    with pytest.raises(ArtefactRefused):
        load(tmp_path)


def test_a_link_to_a_regular_file_is_read(artifacts: Path, tmp_path: Path) -> None:
    """Volumes of container platforms are folders of links."""
    target = tmp_path / "lstm/1/model.onnx"
    target.parent.mkdir(parents=True)
    target.symlink_to(artifacts / "lstm/1/model.onnx")
    assert load(tmp_path).find("lstm").card.version == 1


def test_a_damaged_newest_version_falls_back_to_the_highest_good_one(artifacts: Path, tmp_path: Path) -> None:
    """At the start, as long as one version is good; where none is, the error is that of the newest."""
    for version, damage in ((1, False), (2, False), (3, True), (4, True)):
        shutil.copytree(artifacts / "lstm/1", tmp_path / f"lstm/{version}")
        if damage:
            (tmp_path / f"lstm/{version}/model.onnx").write_bytes(b"half")
    assert load(tmp_path).find("lstm").card.version == 2
    for version in (1, 2):
        shutil.rmtree(tmp_path / f"lstm/{version}")
    with pytest.raises(ArtefactRefused, match=r"lstm/4/model\.onnx"):
        load(tmp_path)


async def test_a_damaged_newer_version_does_not_hide_a_good_one(artifacts: Path, tmp_path: Path) -> None:
    """While the service runs, the highest good version that is newer than the one in service is taken."""
    shutil.copytree(artifacts / "lstm/1", tmp_path / "lstm/1")
    repository = load(tmp_path)
    shutil.copytree(artifacts / "lstm/1", tmp_path / "lstm/2")
    (tmp_path / "lstm/3").mkdir()
    (tmp_path / "lstm/3/model.onnx").write_bytes(b"half")
    await repository.refresh()
    assert repository.find("lstm").card.version == 2
    repository.close()
