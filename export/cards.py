"""Model cards: that of a network, and what all exports put on theirs."""

from importlib.metadata import version as installed_version

from models.card import ModelCard, Parity
from models.config import INPUT_NAME, OUTPUT_NAME
from models.network import Network

UNVERIFIED = Parity(tolerance=1.0, errors={})
"""Stands on a card until its graph has been compared."""


def network_card(
    network: Network, name: str, version: int, *, description: str = "", max_batch: int = 256
) -> ModelCard:
    """Return the card of a network, without figures."""
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
        parity=UNVERIFIED,
        created_by=installed("torch", "onnx", "onnxruntime"),
    )


def installed(*packages: str) -> str:
    """Return the packages with their installed versions."""
    return " ".join(f"{package} {installed_version(package)}" for package in packages)
