"""The reference model has the weights that an external load generator computes, so that it can check the outputs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.raw import RawModel, write_raw_model
from benchmarks.reference import FEATURES, reference_network, write_reference
from tests.service.conftest import RunningServer, offline

SHARED = Path(os.environ.get("CELLSTREAM_SHARED", "../shared")) / "bench"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the external load generator, with the model that it writes."""
    if not SHARED.is_dir():
        pytest.skip(f"the load generator is missing: {SHARED} (set CELLSTREAM_SHARED)")
    folder = tmp_path_factory.mktemp("bench") / "bench"
    shutil.copytree(SHARED, folder)
    subprocess.run([sys.executable, "make_model.py"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the reference model."""
    folder = tmp_path_factory.mktemp("reference")
    write_reference(folder)
    running = RunningServer(folder)
    yield running
    running.stop()


def run_load(bench: Path, *arguments: str) -> dict[str, object]:
    command = [sys.executable, "loadgen.py", *arguments]
    result = subprocess.run(command, cwd=bench, capture_output=True, text=True, timeout=50, check=False)
    parsed: dict[str, object] = json.loads(result.stdout.strip().splitlines()[-1])
    return parsed


def test_the_raw_model_equals_torch(tmp_path: Path) -> None:
    """The raw ONNX model, with which the service is compared, gives the outputs of the reference network in torch."""
    write_raw_model(tmp_path / "raw.onnx")
    inputs = np.random.default_rng(0).normal(size=(20, FEATURES)).astype(np.float32)
    got = RawModel(tmp_path / "raw.onnx").outputs(inputs)
    np.testing.assert_allclose(got, offline(reference_network(), inputs), atol=1e-5)


@pytest.mark.parametrize("adapter", ["json", "ws-json", "ws-binary"])
def test_an_external_load_generator_finds_every_output_correct(
    bench: Path, reference: RunningServer, adapter: str
) -> None:
    """The outputs of sixteen sessions under load equal those of onnxruntime run directly."""
    stream = "/v1/models/lstm/stream"
    adapters = {
        "json": ["--open", "/v1/models/lstm/sessions", "--open-id", "session_id", "--path", "/v1/sessions/{sid}/steps"],
        "ws-json": ["--adapter", "ws-json", "--path", stream],
        "ws-binary": ["--adapter", "ws-binary", "--path", f"{stream}?format=binary"],
    }
    body = [] if adapter == "ws-binary" else ["--body", '{"inputs":[{x}]}', "--answer", "outputs.0"]
    common = ["--url", reference.url, "--sessions", "16", "--seconds", "0.4"]
    result = run_load(bench, *common, *adapters[adapter], *body)
    assert result["error"] is None
    assert result["ok"] is True
    assert isinstance(result["max_abs_err"], float)
    assert result["max_abs_err"] < 1e-5


def test_no_update_is_lost_in_a_race(bench: Path, reference: RunningServer) -> None:
    """Sixteen concurrent steps of one session are taken one after another."""
    result = run_load(
        bench,
        *("--url", reference.url, "--race", "16", "--open", "/v1/models/lstm/sessions", "--open-id", "session_id"),
        *("--path", "/v1/sessions/{sid}/steps", "--body", '{"inputs":[{x}]}', "--answer", "outputs.0"),
    )
    assert result["serialised"] is True
    assert result["n_errors"] == 0
