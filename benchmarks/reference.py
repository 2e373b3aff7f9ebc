"""Write the reference model: LSTM 16 → 128 × 2 → 4, with weights from a seed, so other programs can reproduce them.

Run as `python -m benchmarks.reference --out DIR`; it writes DIR/lstm/1/model.onnx.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from export import ExportOptions, export_network
from models.cells.gates import Gates
from models.network import Network, NetworkConfig

FEATURES, HIDDEN, LAYERS, OUTPUTS = 16, 128, 2, 4
SEED = 7
_ROWS = "iofg"  # the order in which the generator draws the gates


def reference_network() -> Network:
    """Return the reference network; its weights are drawn from ±2/√hidden, for each layer W, R and both biases."""
    random = np.random.RandomState(SEED)
    bound = 1 / np.sqrt(HIDDEN)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.uniform(-bound, bound, shape).astype(np.float32) * 2)

    network = Network(
        NetworkConfig(cell="lstm", input_size=FEATURES, hidden_size=HIDDEN, output_size=OUTPUTS, num_layers=LAYERS)
    )
    with torch.no_grad():
        for cell in network.stack.cells:
            gates = cell.get_submodule("gates")
            assert isinstance(gates, Gates)
            weights = draw(4 * HIDDEN, cell.input_size), draw(4 * HIDDEN, HIDDEN), draw(2, 4 * HIDDEN).sum(0)
            for mine, drawn in zip((gates.W, gates.R, gates.b), weights, strict=True):
                for name, block in zip(_ROWS, drawn.chunk(len(_ROWS)), strict=True):
                    mine[gates.rows(name)] = block
        network.head.weight.copy_(draw(HIDDEN, OUTPUTS).T)
        network.head.bias.copy_(draw(OUTPUTS))
    return network.eval()


def write_reference(folder: Path) -> Path:
    """Export the reference network to FOLDER/lstm/1/model.onnx and return that path."""
    return export_network(
        reference_network(),
        folder,
        "lstm",
        1,
        ExportOptions(description="the reference model of the benchmarks", max_batch=1024, force=True),
    )


def main(out: Annotated[Path, typer.Option(help="folder of artefacts, in which lstm/1/model.onnx is written")]) -> None:
    """Export the reference model."""
    print(write_reference(out))


if __name__ == "__main__":
    typer.run(main)
