from pathlib import Path

import onnx
import pytest
from torch import Tensor

import export.artefact
from export import DestinationExistsError, ExportOptions, export_network, read_card
from export.artefact import FILE_NAME
from export.destination import Destination
from export.errors import ArtefactError, BadDestinationError, NoLoweringError
from models.card import CARD_KEY, SEAL_KEY, check_seal
from models.cells import CELLS, State
from models.cells.rnn import TanhRNN
from tests.export.networks import SCALERS, make_network


def test_the_artefact_carries_its_card(tmp_path: Path) -> None:
    """The card in the file says what the network is, what it takes and gives, and how far it was from torch."""
    network = make_network(features=("pressure", "flow"), units=("bar", "l/s"), **SCALERS)
    path = export_network(network, tmp_path, "pump-7", 3, ExportOptions(description="a pump", max_batch=64))
    assert path == tmp_path / "pump-7" / "3" / FILE_NAME
    card = read_card(path)
    assert (card.name, card.version, card.description, card.cell) == ("pump-7", 3, "a pump", "lstm")
    assert (card.inputs, card.outputs, card.states) == (network.inputs, network.outputs, network.states)
    assert card.inputs[0].units == ("bar", "l/s")
    assert (card.max_batch, card.ragged, card.feedback) == (64, True, {})
    assert card.weights_sha256 == network.weights_sha256()
    assert card.parity.tolerance == 1e-5
    assert card.parity.steps == 50
    # an offset of thirty times the spread
    assert max(card.parity.errors.values()) <= 1e-5 + 2 * card.parity.float32 < 3e-5
    assert card.config["input_scaler"]["mean"] == [40.0, -3.0]
    assert "torch" in card.created_by


def test_the_artefact_is_one_sealed_file_and_nothing_else_is_left(tmp_path: Path) -> None:
    """After an export there is model.onnx, with card and seal in its metadata, and no temporary folder."""
    path = export_network(make_network(), tmp_path, "demo", 1)
    assert [p for p in sorted(tmp_path.rglob("*")) if p.is_file()] == [path]
    assert [p.name for p in path.parent.parent.iterdir()] == ["1"]
    data = path.read_bytes()
    check_seal(data)
    assert {prop.key for prop in onnx.load_model_from_string(data).metadata_props} == {CARD_KEY, SEAL_KEY}


def test_exporting_twice_gives_identical_bytes(tmp_path: Path) -> None:
    """The same network under the same name and version is the same file, bit for bit."""
    paths = [export_network(make_network(**SCALERS), tmp_path / position, "demo", 1) for position in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_network_that_feeds_back_says_so(tmp_path: Path) -> None:
    """The card of a network whose output can be its next input pairs the two by name."""
    network = make_network(output_size=2, feedback=True)
    assert read_card(export_network(network, tmp_path, "demo", 1)).feedback == {"y": "x"}


def test_a_version_is_not_overwritten_unless_forced(tmp_path: Path) -> None:
    """An existing version is refused before any work is done, and replaced with force."""
    path = export_network(make_network(), tmp_path, "demo", 1)
    first = path.read_bytes()
    with pytest.raises(DestinationExistsError, match="--force"):
        export_network(make_network("rnn_tanh"), tmp_path, "demo", 1)
    assert path.read_bytes() == first
    assert export_network(make_network("rnn_tanh"), tmp_path, "demo", 1, ExportOptions(force=True)) == path
    assert read_card(path).cell == "rnn_tanh"
    assert [p.name for p in path.parent.parent.iterdir()] == ["1"]


def test_a_failed_replacement_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails half-way, the version that was there is unchanged and no temporary folder is left."""
    path = export_network(make_network(), tmp_path, "demo", 1)
    first = path.read_bytes()
    monkeypatch.setattr(export.artefact, "artefact_bytes", lambda model, card: first[: len(first) // 2])
    with pytest.raises(ArtefactError):
        export_network(make_network(), tmp_path, "demo", 1, ExportOptions(force=True))
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.parent.iterdir()] == ["1"]


def test_a_version_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two exports of one version the first to finish is kept, and the other fails."""
    monkeypatch.setattr(Destination, "check", lambda destination, force: None)
    path = export_network(make_network(), tmp_path, "demo", 1)
    first = path.read_bytes()
    with pytest.raises(DestinationExistsError):
        export_network(make_network("rnn_tanh"), tmp_path, "demo", 1)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("demo", 0, "positive integer"),
        ("demo", -1, "positive integer"),
        ("dé mo", 1, "cannot be a model's name"),
        ("d" * 129, 1, "cannot be a model's name"),
    ],
)
def test_a_target_that_is_no_name_and_version_is_refused(
    name: str, version: int, sentence: str, tmp_path: Path
) -> None:
    """The folder's last two parts must be a model's name and a positive integer."""
    with pytest.raises(BadDestinationError, match=sentence):
        export_network(make_network(), tmp_path, name, version)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """A file where a folder must be is named in the sentence."""
    (tmp_path / "demo").write_text("")
    with pytest.raises(BadDestinationError, match="demo is not a folder"):
        export_network(make_network(), tmp_path, "demo", 1)


def test_a_cell_without_an_onnx_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that is in no table and cannot be traced is named, and nothing is written."""

    class Undecided(TanhRNN):
        def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            (h,) = state
            return super().forward(x, state) if h.sum() > 0 else (h, state)

    monkeypatch.setitem(CELLS, "undecided", Undecided)
    with pytest.raises(NoLoweringError, match="Undecided, and torch cannot trace"):
        export_network(make_network("undecided"), tmp_path, "demo", 1)
    assert not list(tmp_path.iterdir())


def test_a_damaged_artefact_is_recognised(tmp_path: Path) -> None:
    """One flipped bit anywhere, or a missing end, is noticed before the card is believed."""
    path = export_network(make_network(num_layers=1), tmp_path, "demo", 1)
    whole = path.read_bytes()
    for position in (0, 40, len(whole) // 3, len(whole) // 2, whole.index(b'"version"'), len(whole) - 1):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(bytes(damaged))
            with pytest.raises(ArtefactError):
                read_card(path)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtefactError, match="checksum"):
            read_card(path)
    path.write_bytes(whole)
    assert read_card(path).name == "demo"
