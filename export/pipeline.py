"""Export from a network to an artefact on disk: build, prove, verify, write, rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Unpack

from onnx import ModelProto

from export.arena_graph import build_arena_graph
from export.artefact import FILE_NAME, artefact_bytes, read_card
from export.errors import TargetExistsError
from export.lower import Target
from export.network_oracle import NetworkOracle
from export.order import Options, Order
from export.place import check_target
from export.precision import Precision
from export.proving import prove
from export.structure import check_arenas_stay
from export.verify import TOLERANCE, verify
from models.card import ModelCard, Parity
from models.config import INPUT_NAME, OUTPUT_NAME
from models.network import Network


def export_network(
    network: Network,
    root: Path | str,
    name: str,
    version: int,
    *,
    target: Target = "cpu",
    **options: Unpack[Options],
) -> Path:
    """Write `root/name/version/model.onnx` and return its path; either the whole artefact is there, or nothing is.

    `target` is the kind of device whose kernels the graph is made for; the other options are those of an `Order`.

    Raises:
        ExportError: No artefact was written; see its subclasses in `export.errors`.
    """
    order = Order(**options)
    place = Path(root) / name / str(version)
    check_target(place, force=order.force)

    order.on_progress("lowering to ONNX")
    model = build_arena_graph(network, target)
    graph_bytes = model.SerializeToString(deterministic=True)
    order.on_progress("checking that no arena is copied")
    check_arenas_stay(graph_bytes, (spec.name for spec in network.states))
    exact = TOLERANCE if order.tolerance is None or order.precision is not Precision.FLOAT32 else order.tolerance
    parity = verify(
        network, graph_bytes, tolerance=exact, on_comparison=lambda which: order.on_progress(f"comparing: {which}")
    )
    card = build_card(network, name, version, description=order.description, max_batch=order.max_batch, parity=parity)
    if order.precision is not Precision.FLOAT32:
        model, card = prove(
            model,
            card,
            NetworkOracle(network),
            precision=order.precision,
            tolerance=order.tolerance,
            on_finding=order.on_finding,
        )

    order.on_progress("writing")
    return write_artefact(place, model, card, force=order.force)


def write_artefact(target: Path, model: ModelProto, card: ModelCard, *, force: bool = False) -> Path:
    """Write a verified model and its card to the folder `target` and return the file; it is there whole, or not."""
    with _temporary_folder(target) as folder:
        file = folder / FILE_NAME
        file.write_bytes(artefact_bytes(model, card))
        read_card(file)
        _put(folder, target, force=force)
    return target / FILE_NAME


def build_card(
    network: Network, name: str, version: int, *, description: str, max_batch: int, parity: Parity
) -> ModelCard:
    """Return the card of a verified network."""
    config = network.config
    return ModelCard(
        name=name,
        version=version,
        description=description,
        cell=config.cell,
        config=config.model_dump(mode="json"),
        inputs=network.inputs,
        outputs=network.outputs,
        states=network.states,
        max_batch=max_batch,
        ragged=True,
        streams=network.streams,
        feedback={OUTPUT_NAME: INPUT_NAME} if config.feedback else {},
        weights_sha256=network.weights_sha256(),
        parity=parity,
        created_by=" ".join(f"{package} {installed_version(package)}" for package in ("torch", "onnx", "onnxruntime")),
    )


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside the target, on the same file system, and leave nothing of it behind."""
    made = [parent for parent in (target.parent, *target.parent.parents) if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()


def _put(folder: Path, target: Path, *, force: bool) -> None:
    """Move the artefact into place in one rename, so that a reader sees the old one, or the new one, or none."""
    if force and target.exists():
        os.replace(folder / FILE_NAME, target / FILE_NAME)
        return
    try:
        os.rename(folder, target)
    except OSError as exc:
        # somebody else exported the same version meanwhile
        raise TargetExistsError(target) from exc
