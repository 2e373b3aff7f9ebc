"""Health, metadata and configuration of the server and its models."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson

from models.card import StateSpec, TensorSpec
from service.api.request import Call, Reply, json_reply
from service.codec.binary import DATATYPE_OF
from service.oip.errors import UnknownModel, not_ready
from service.oip.models import served_model
from service.repository.repository import Repository
from service.repository.served_model import ServedModel
from service.settings import Settings

EXTENSIONS = (
    "sequence",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "session_fleet",
    "exactly_once",
)
"""The extensions that are supported: those of Triton, then two of this service."""


class Metadata:
    """Answers requests for health, metadata and configuration."""

    def __init__(self, settings: Settings, repository: Repository, is_ready: Callable[[], bool]) -> None:
        self._settings, self._repository, self._is_ready = settings, repository, is_ready

    def live(self) -> Reply:
        """Report that the process is running."""
        return 200, [], b""

    def ready(self) -> Reply:
        """Report whether the service accepts new work."""
        return (200, [], b"") if self._is_ready() else not_ready("Server")

    async def model_ready(self, call: Call, body: bytes) -> Reply:
        """Report whether a model, or a version of it, accepts work."""
        try:
            model = served_model(self._repository, call.argument)
        except UnknownModel:
            return not_ready("Model version")
        if not self._is_ready():
            return not_ready("Model version")
        return json_reply(orjson.dumps({"name": model.name, "ready": True}))

    async def server(self, call: Call, body: bytes) -> Reply:
        """Return the name, version and extensions of the server."""
        return json_reply(
            orjson.dumps({"name": "cellstream", "version": version("cellstream"), "extensions": EXTENSIONS})
        )

    async def model(self, call: Call, body: bytes) -> Reply:
        """Describe a model's inputs and outputs."""
        model = served_model(self._repository, call.argument)
        card = model.card
        described = {
            "name": card.name,
            "versions": [str(card.version)],
            "platform": "onnxruntime_onnx",
            "inputs": [_tensor_metadata(spec) for spec in card.inputs],
            "outputs": [_tensor_metadata(spec) for spec in card.outputs],
        }
        return json_reply(orjson.dumps(described))

    async def config(self, call: Call, body: bytes) -> Reply:
        """Describe a model in the format of Triton's model configuration."""
        return json_reply(orjson.dumps(self._config(served_model(self._repository, call.argument))))

    def _config(self, model: ServedModel) -> dict[str, Any]:
        card, cpu = model.card, self._settings.provider == "cpu"
        config: dict[str, Any] = {
            "name": card.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": model.batcher.max_rows,
            "input": [_tensor_config(spec) for spec in card.inputs],
            "output": [_tensor_config(spec) for spec in card.outputs],
            "batch_input": [],
            "batch_output": [],
            "optimization": {"priority": "PRIORITY_DEFAULT"},
            "instance_group": [{"name": card.name, "kind": "KIND_CPU" if cpu else "KIND_GPU", "count": 1}],
            "default_model_filename": "model.onnx",
            "parameters": {"cell": {"string_value": card.cell}},
        }
        if card.streams and card.states:
            config["sequence_batching"] = {
                "oldest": {
                    "max_candidate_sequences": model.max_sessions,
                    "preferred_batch_size": [],
                    "max_queue_delay_microseconds": 0,
                },
                "max_sequence_idle_microseconds": round(self._settings.idle_limit * 1e6),
                "control_input": [],
                "state": [_state_config(spec) for spec in card.states],
            }
        return config


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPE_OF[spec.dtype], "shape": [-1, -1, *spec.shape]}


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{DATATYPE_OF[spec.dtype]}", "dims": [-1, *spec.shape]}


def _state_config(spec: StateSpec) -> dict[str, Any]:
    described: dict[str, Any] = {
        "input_name": spec.name,
        "output_name": spec.name,
        "data_type": f"TYPE_{DATATYPE_OF[spec.dtype]}",
        "dims": list(spec.shape),
    }
    if not np.any(spec.initial):
        initial = {"data_type": described["data_type"], "dims": list(spec.shape), "zero_data": True, "name": spec.name}
        described["initial_state"] = [initial]
    return described
