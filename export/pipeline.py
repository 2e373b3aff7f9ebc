"""Export from a network to an artefact on disk: build the served graph, verify it, write it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from export.arena_graph import build_arena_graph
from export.candidate import Candidate, write_artefact
from export.cards import network_card
from export.destination import Destination
from export.lower import Target
from export.network_reference import BatchNetworkReference, NetworkReference
from export.options import ExportOptions
from export.precision import Precision
from models.network import Network
from models.threads import torch_threads

_DEFAULTS = ExportOptions()


def export_network(
    network: Network,
    root: Path | str,
    name: str,
    version: int,
    options: ExportOptions = _DEFAULTS,
    *,
    target: Target = "cpu",
) -> Path:
    """Write `root/name/version/model.onnx` and return its path; all of the artefact is written, or nothing.

    `target` is the kind of device whose kernels the graph is made for. For a lower precision the graph is verified in
    float32 first.

    Raises:
        ExportError: No artefact was written; see its subclasses in `export.errors`.
    """
    destination = Destination(Path(root), name, version)
    destination.check(force=options.force)
    options.on_progress("lowering to ONNX")
    graph = build_arena_graph(network, target)
    card = network_card(network, name, version, description=options.description, max_batch=options.max_batch)
    random = np.random.default_rng(0)
    candidate = Candidate(graph, card, BatchNetworkReference(network, random), random)
    with torch_threads(1):
        if options.precision is not Precision.FLOAT32:
            exact = candidate.verified(options.allowed_in_float32, options.on_progress)
            reference = NetworkReference(network, np.random.default_rng(0))
            candidate = replace(exact, reference=reference, random=np.random.default_rng(0))
        return write_artefact(destination, candidate, options)
