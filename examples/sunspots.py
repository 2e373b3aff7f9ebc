"""Train a network on the sunspot series, export it, serve it, and forecast the held-out years through a session."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cellstream_client import Client, Session
from examples import report, series
from examples.baselines import fit_autoregression, persistence
from examples.forecaster import Recipe, forecast, train_or_load, with_epochs
from examples.running import HOST, ServiceUnavailableError, free_port, integer_in, running_service
from examples.series import FIRST_YEAR, LAST_TRAINING_YEAR, TEST_SPANS, Series
from export import ExportError, ExportOptions, export_network, read_card
from models.card import ModelCard
from models.network import Network

MODEL = "sunspots"
VERSION = 1
ORDER = 9
FIRST_TEST_YEAR = TEST_SPANS[0][0]
LAST_TEST_YEAR = TEST_SPANS[-1][1]
HISTORY_CHUNK = 64
IDLE_LIMIT = 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command-line options."""

    epochs: int | None
    port: int
    artifacts: Path
    checkpoints: Path
    stop: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    options = parse(arguments)
    console = Console()
    sunspots = series.load()

    console.rule("1 of 4 · train", align="left")
    recipe = with_epochs(Recipe(), options.epochs)
    checkpoint = options.checkpoints / f"{MODEL}.safetensors"
    start = time.perf_counter()
    network, new = train_or_load(sunspots, LAST_TRAINING_YEAR, recipe, checkpoint)
    origin = f"trained on {FIRST_YEAR}-{LAST_TRAINING_YEAR} in {time.perf_counter() - start:.1f} s" if new else "reused"
    console.print(f"LSTM 1 → {recipe.hidden_size} → 1 {origin}: {checkpoint}")

    console.rule("2 of 4 · export and verify", align="left")
    artefact, card, new = export_or_reuse(network, options.artifacts, console)
    console.print(f"{'written' if new else 'reused'}: {artefact}")
    console.print("torch and onnxruntime agree: " + describe_parity(card))

    console.rule("3 of 4 · serve and stream", align="left")
    port = free_port(options.port)
    log = options.checkpoints / "service.log"
    try:
        serve_and_compare(options, port, log, network, sunspots, console)
    except ServiceUnavailableError as exc:
        console.print(f"the service did not start: {exc}")
        return 1
    return 0


def serve_and_compare(
    options: Options, port: int, log: Path, network: Network, sunspots: Series, console: Console
) -> None:
    """Serve the artefacts, stream the held-out years through a session, and print the comparison.

    Raises:
        ServiceUnavailableError: The service does not start.
    """
    with running_service(options.artifacts, port, log) as process, Client(f"http://{HOST}:{port}") as client:
        console.print(f"service ready at {client.base_url}, its log in {log}")
        session = client.open(MODEL, idle_limit=IDLE_LIMIT)
        served = stream(session, sunspots, console)
        console.print(report.forecast_table(served, sunspots, FIRST_TEST_YEAR, LAST_TEST_YEAR))

        console.rule("4 of 4 · compare", align="left")
        compare(served, network, sunspots, console)
        if options.stop or not sys.stdout.isatty():
            session.close()
            console.print("service stopped")
        else:
            keep_running(client, session, process, sunspots, console)


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.sunspots", description=__doc__)
    parser.add_argument(
        "--epochs", type=integer_in(1, 1_000_000), help="number of training epochs (default: that of the recipe)"
    )
    parser.add_argument(
        "--port", type=integer_in(0, 65_535), default=8000, help="port of the service (default: 8000, or a free one)"
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of artefacts")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="folder of the trained network")
    parser.add_argument("--stop", action="store_true", help="stop the service at the end even on a terminal")
    return Options(**vars(parser.parse_args(arguments)))


def export_or_reuse(network: Network, artifacts: Path, console: Console) -> tuple[Path, ModelCard, bool]:
    """Return the artefact's path, its card, and whether it was written now; one with the same weights is reused."""
    artefact = artifacts / MODEL / str(VERSION) / "model.onnx"
    if artefact.is_file():
        with suppress(ValueError, ExportError):  # damaged, or not an artefact: written again below
            card = read_card(artefact)
            if card.weights_sha256 == network.weights_sha256():
                return artefact, card, False
    description = f"Yearly sunspot number, one year ahead; trained on {FIRST_YEAR}-{LAST_TRAINING_YEAR}."
    artefact = export_network(
        network,
        artifacts,
        MODEL,
        VERSION,
        ExportOptions(description=description, force=True, on_progress=console.print),
    )
    return artefact, read_card(artefact), True


def describe_parity(card: ModelCard) -> str:
    """Return the largest difference of each comparison at export, as recorded in the card."""
    return ", ".join(f"{name} {figure:.1e}" for name, figure in card.parity.errors.items())


def stream(session: Session, sunspots: Series, console: Console) -> dict[int, float]:
    """Send the training years in chunks, then one held-out year in each request; return the forecast of each year.

    The output for a year is the forecast of the next one, so no forecast uses the value of its own year.
    """
    forecasts: dict[int, float] = {}
    year = FIRST_YEAR
    start = time.perf_counter()
    for first in range(FIRST_YEAR, LAST_TRAINING_YEAR + 1, HISTORY_CHUNK):
        chunk = sunspots.span(first, min(first + HISTORY_CHUNK - 1, LAST_TRAINING_YEAR))
        for (value,) in session.steps(chunk[:, None]):
            year += 1
            forecasts[year] = value
    console.print(f"history {FIRST_YEAR}-{LAST_TRAINING_YEAR} sent in chunks of {HISTORY_CHUNK} years")
    for year in track(
        range(FIRST_TEST_YEAR, LAST_TEST_YEAR + 1), "streaming, one year in each request", console=console
    ):
        (forecasts[year + 1],) = session.step([sunspots[year]])
    console.print(f"session {session.session_id}: {len(forecasts)} steps in {time.perf_counter() - start:.2f} s")
    return forecasts


def compare(served: dict[int, float], network: Network, sunspots: Series, console: Console) -> None:
    """Print the errors of the forecasts, baselines and published methods, and how served and offline runs differ."""
    evaluated = report.spans(LAST_TRAINING_YEAR)
    first = evaluated[0][0]
    years = range(first, LAST_TEST_YEAR + 1)
    linear = fit_autoregression(sunspots.span(FIRST_YEAR, LAST_TRAINING_YEAR), ORDER)
    methods = {
        "LSTM, through the service": served,
        f"AR({ORDER}), least squares": dict(zip(years, linear.forecast(sunspots, first, LAST_TEST_YEAR), strict=True)),
        "persistence": dict(zip(years, persistence(sunspots, first, LAST_TEST_YEAR), strict=True)),
    }
    figures = {name: report.measure(forecasts, sunspots, evaluated) for name, forecasts in methods.items()}
    console.print(report.variance_table(figures, evaluated))
    offline = dict(zip(years, forecast(network, sunspots, first, LAST_TEST_YEAR), strict=True))
    difference = max(abs(served[year] - offline[year]) for year in years)
    console.print(f"largest difference between served step by step and computed in one pass: {difference:.1e} sunspots")


def keep_running(
    client: Client, session: Session, process: subprocess.Popen[bytes], sunspots: Series, console: Console
) -> None:
    """Print commands to try, and leave the service running until Ctrl-C."""
    recent = [[round(value, 1)] for value in map(float, sunspots.span(LAST_TEST_YEAR - 21, LAST_TEST_YEAR))]
    commands = (
        (f"the session has read the years to {LAST_TEST_YEAR}: send the next year to get a forecast of the one after",
         f"/v1/sessions/{session.session_id}/steps", [[round(sunspots[LAST_TEST_YEAR + 1], 1)]]),
        ("a whole sequence without a session", f"/v1/models/{MODEL}/predict", [recent]),
    )  # fmt: skip
    console.rule("the service is running", align="left")
    console.print(f"API docs: {client.base_url}/docs")
    for description, path, inputs in commands:
        body = json.dumps({"inputs": inputs}, separators=(",", ":"))
        console.print(f"\n{description}:")
        # print, not console.print: a command that can be copied must not be wrapped
        print(f"curl -s {client.base_url}{path} -H 'content-type: application/json' -d '{body}'")
    console.print("\nCtrl-C stops it.")
    with suppress(KeyboardInterrupt):
        status = process.wait()
        console.print(f"the service ended with status {status}")
        return
    console.print("\nservice stopped")


if __name__ == "__main__":
    # exit by an exception, so that the service is stopped too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = main()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)
