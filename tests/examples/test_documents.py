"""The commands shown in the documents do what the documents say, with a service like the one the demo starts."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellstream_client import Client
from examples import series
from examples.forecaster import Recipe, train
from examples.running import HOST, ROOT, free_port, running_service
from export import export_network

SHOWN = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("documents")
    network = train(series.load(), series.LAST_TRAINING_YEAR, Recipe(epochs=1, copies=1), progress=False)
    export_network(network, folder / "artifacts", "sunspots", 1)
    port = free_port(0)
    with running_service(folder / "artifacts", port, folder / "service.log"):
        yield f"http://{HOST}:{port}"


def blocks(document: str, language: str, word: str) -> str:
    """Return the document's code blocks in a language that contain a word, joined."""
    text = (ROOT / document).read_text()
    found = [code for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if word in code]
    assert found
    return "\n".join(found)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    ("document", "answers"),
    [
        ("README.md", 3),
        ("docs/api.md", 5),
        ("docs/sessions.md", 7),
        ("docs/open-inference-protocol.md", 4),
        ("docs/from-openvino-model-server.md", 1),
        ("docs/from-torchserve.md", 1),
    ],
)
def test_every_curl_in_the_documents_works(address: str, document: str, answers: int) -> None:
    """Every curl command in the documents succeeds, and none returns an error."""
    script = blocks(document, "sh", "curl").replace(SHOWN, address).replace("curl -s", "curl --fail-with-body -s")
    with Client(address) as client:
        session = client.open("sunspots", idle_limit=60).session_id
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "SESSION": session},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r'"outputs"|"session_id"', done.stdout)) == answers
    assert '"code"' not in done.stdout


def test_the_triton_client_in_the_documents_works(address: str) -> None:
    """The document's script with Triton's client gets an output from this service."""
    script = blocks("docs/from-triton.md", "python", "tritonclient")
    script = script.replace(SHOWN.removeprefix("http://"), address.removeprefix("http://"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\[\[\[-?[\d.]+\]\]\]\n", done.stdout)


def test_the_stream_in_the_documents_works(address: str) -> None:
    """The WebSocket example prints an output for each value it sends."""
    script = blocks("docs/api.md", "python", "websockets").replace(
        SHOWN.replace("http", "ws"), address.replace("http", "ws")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(\[\[-?[\d.]+\]\]\n){3}", done.stdout)


@pytest.mark.parametrize(
    ("document", "word", "printed"),
    [
        ("README.md", "cellstream_client", r"(\[-?[\d.]+\]\n){3}"),
        ("docs/client.md", "import Client", r"(\[-?[\d.]+\]\n){3}"),
        ("docs/client.md", "AsyncClient", r"(\[-?[\d.]+\]\n){3}"),
        ("clients/python/README.md", "cellstream_client", r"(\[\[-?[\d.]+\], \[-?[\d.]+\]\]\n){2}session_closed 4\n"),
    ],
)
def test_the_client_does_what_the_documents_show(address: str, document: str, word: str, printed: str) -> None:
    """Each example with the client runs, and prints the expected lines."""
    script = blocks(document, "python", word).replace(SHOWN, address)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(printed, done.stdout), done.stdout


@pytest.mark.slow
def test_a_torch_network_becomes_an_artefact_as_the_readme_shows(tmp_path: Path) -> None:
    """The README's code saves a torch LSTM, and its commands export it and show its card."""
    shown = blocks("README.md", "sh", "-m export")
    commands = [line.split("#")[0].split()[1:] for line in shown.splitlines() if "-m export" in line]
    python = [["-c", blocks("README.md", "python", "network_from_torch")], *commands]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments in python:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "forecaster" in done.stdout
