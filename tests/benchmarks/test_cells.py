"""Every cell the whole way: trained a little, saved, exported, verified, and streamed through a running service."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.cells.__main__ import app
from benchmarks.cells.served import Client, RefusedError, running_service, served_error
from benchmarks.cells.suite import COMPOSITIONS, Outcome, export_variant, variants
from benchmarks.cells.table import Row, run, table_of
from export.artefact import read_card
from export.errors import ParityError
from export.verify import TOLERANCE
from models.cells import CELLS
from models.threads import torch_threads
from tests.sweeps import QUICK_CELLS, sweep

STREAMED = {"whole_sequence", "one_step_at_a_time", "random_chunks", "ragged_batch", "initial_state"}

QUICK = QUICK_CELLS | set(COMPOSITIONS)

Exported = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Train and export a variant when it is first asked for."""
    folder = tmp_path_factory.mktemp("cells")
    outcomes: dict[str, Outcome] = {}

    def get(name: str) -> Outcome:
        if name not in outcomes:
            outcomes[name] = export_variant(name, folder)
        return outcomes[name]

    with torch_threads(1):
        yield get


@pytest.fixture(scope="module")
def client(exported: Exported, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a service that holds all variants that the chosen tests name."""
    chosen = (getattr(item, "callspec", None) for item in request.session.items if item.path == request.path)
    named = {"bidirectional"} | {call.params["name"] for call in chosen if call is not None}
    outcomes = [exported(name) for name in variants() if name in named]
    with running_service(outcomes[0].path.parents[2], "--max-sessions", "20") as made:
        yield made


@pytest.mark.parametrize("name", sweep(variants(), QUICK))
def test_a_cell_trains_and_is_exported_within_the_tolerance(name: str, exported: Exported) -> None:
    """Some epochs lower the loss; then sequence, steps, chunks, a ragged batch and a given state agree with torch."""
    outcome = exported(name)
    assert outcome.loss_after < outcome.loss_before
    assert set(outcome.errors) == (
        STREAMED if outcome.network.streams else {"whole_sequence", "ragged_batch", "initial_state"}
    )
    assert max(outcome.errors.values()) <= TOLERANCE


@pytest.mark.timeout(120)  # the first of them waits for the service to load all models
@pytest.mark.parametrize("name", sweep(variants(), QUICK))
def test_a_cell_streams_through_the_service(name: str, exported: Exported, client: Client) -> None:
    """Sessions that alternate with chunks of random lengths get what torch gives for their whole sequences."""
    assert served_error(client, name, exported(name).network, seed=4) <= TOLERANCE


@pytest.mark.slow  # it asks every cell's card
def test_a_model_that_cannot_stream_says_so(client: Client, exported: Exported) -> None:
    """A bidirectional model's card says that it does not stream, and a session is refused with what works instead."""
    assert [name for name in variants() if not read_card(exported(name).path).streams] == ["bidirectional"]
    for operation in ("sessions", "fleet"):
        with pytest.raises(RefusedError) as refused:
            client.post(f"/v1/models/bidirectional/{operation}")
        assert refused.value.status == 409
        assert refused.value.body["code"] == "not_streamable"
    assert "/v1/models/bidirectional/predict" in refused.value.body["message"]


def test_a_long_sequence_is_not_cut_where_that_would_change_it(client: Client, exported: Exported) -> None:
    """A bidirectional model's answer to 700 steps is torch's own, beside a short one in the same request."""
    network = exported("bidirectional").network
    random = np.random.default_rng(1)
    sequences = [random.standard_normal((steps, 3)).astype(np.float32) for steps in (700, 1, 64)]
    answer = client.post("/v1/models/bidirectional/predict", {"inputs": [rows.tolist() for rows in sequences]})
    for rows, outputs in zip(sequences, answer["outputs"], strict=True):
        with torch.no_grad():
            wanted = network(torch.from_numpy(rows[None]))[0][0].numpy()
        np.testing.assert_allclose(np.array(outputs, np.float32), wanted, atol=1e-5)


def test_the_table_has_a_row_for_each_and_tells_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks.cells` runs the given cells, times them, and continues after a row that fails."""
    monkeypatch.setattr("benchmarks.cells.suite.train_a_little", lambda network: (1.0, 2.0))
    console = Console(width=200, record=True, quiet=True)
    rows = run(["rnn_tanh", "min_gru"], tmp_path, "cpu", console)
    assert [(row.name, row.operator) for row in rows] == [("rnn_tanh", "RNN"), ("min_gru", "Scan")]
    assert all("training took the loss from 1 to 2" in row.failure for row in rows)
    assert all(set(row.errors) == STREAMED | {"served"} and set(row.microseconds) == {1, 64} for row in rows)
    assert table_of([*rows, Row("lost", "Scan", failure="gone")]).row_count == 3


def test_the_status_is_1_where_a_row_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell over the tolerance is named with its comparison, the rest is still shown, and the status is 1."""

    def refuse(name: str, folder: Path, target: str) -> Outcome:
        raise ParityError("random_chunks", 0.5, TOLERANCE, "y", 3)

    assert CliRunner().invoke(app, ["ind_rnn"]).exit_code == 0
    monkeypatch.setattr("benchmarks.cells.table.export_variant", refuse)
    result = CliRunner().invoke(app, ["ind_rnn", "lstm"])
    assert result.exit_code == 1
    assert "random_chunks" in result.output
    assert "2 failed" in result.output
    assert CliRunner().invoke(app, ["no_such_cell"]).exit_code == 2
    assert CliRunner().invoke(app, ["lstm", "--target", "tpu"]).exit_code == 2


def test_everything_in_the_table_goes_through_the_suite() -> None:
    """No cell is left out, and stacks, residual or bidirectional, are in it too."""
    assert set(variants()) == set(CELLS) | set(COMPOSITIONS)
    assert {"residual", "bidirectional"} <= set(COMPOSITIONS)
