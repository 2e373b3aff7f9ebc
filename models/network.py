"""The network that is trained, saved and exported: embedding or scaler, a stack of cells, a linear head."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.card import StateSpec, TensorSpec
from models.config import NetworkConfig, Scaler, first_error, least_weights
from models.stack import NamedState

__all__ = ["CheckpointError", "Network", "NetworkConfig", "Scaler"]

# a single key: safetensors writes several metadata keys in an order that changes from run to run
_METADATA_KEY = "cellstream.network"


class CheckpointError(ValueError):
    """The file is not a complete network written by `Network.save`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class Network(nn.Module):
    """Map sequences in raw units, or token ids, to outputs in raw units, and carry a state of named tensors."""

    input_mean: Tensor
    input_std: Tensor
    output_mean: Tensor
    output_std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.input_size) if config.vocabulary else None
        self.stack = config.make_stack()
        self.head = nn.Linear(self.stack.cells[-1].output_size, config.output_size)
        for side, scaler in (("input", config.input_scaler), ("output", config.output_scaler)):
            # not in the state_dict: they are restored from the configuration, which is saved in the same file
            if scaler is not None:
                self.register_buffer(f"{side}_mean", torch.tensor(scaler.mean), persistent=False)
                self.register_buffer(f"{side}_std", torch.tensor(scaler.std), persistent=False)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return the card's description of the inputs."""
        return (self.config.input_spec(),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return the card's description of the outputs."""
        return (self.config.output_spec(),)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """Return the card's description of the carried state."""
        return self.stack.states

    @property
    def streams(self) -> bool:
        """Return whether the network can run one step at a time; if not, it reads whole sequences only."""
        return self.stack.streams

    def initial_state(self, batch: int) -> NamedState:
        """Return the state before the first step, each tensor (batch, *shape)."""
        return self.stack.initial_state(batch)

    def forward(self, x: Tensor, state: NamedState | None = None) -> tuple[Tensor, NamedState]:
        """Run over sequences and return the outputs and the state after the last step.

        x is (batch, time, features) or int64 token ids (batch, time); y is (batch, time, outputs). Without a state,
        the sequences start from the initial state.
        """
        state = self.initial_state(x.shape[0]) if state is None else state
        if self.embedding is not None:
            x = self.embedding(x)
        if self.config.input_scaler is not None:
            x = (x - self.input_mean) / self.input_std
        hidden, state = self.stack(x.transpose(0, 1), state)
        y: Tensor = self.head(hidden).transpose(0, 1)
        if self.config.output_scaler is not None:
            y = y * self.output_std + self.output_mean
        return y, state

    def weights_sha256(self) -> str:
        """Return the SHA-256 over the names, shapes and bytes of all weights and scalers, sorted by name."""
        digest = hashlib.sha256()
        for name, tensor in sorted([*self.named_parameters(), *self.named_buffers()]):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write weights and configuration to one .safetensors file."""
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, path, metadata={_METADATA_KEY: self.config.model_dump_json()})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a network that `save` wrote, and return it in eval mode.

        Raises:
            CheckpointError: The file is missing, damaged, not written by `save`, or holds weights that are not real
                numbers, NaN or infinite.
        """
        path = Path(path)
        metadata, weights = _read_safetensors(path)
        if _METADATA_KEY not in metadata:
            raise CheckpointError(path, "a safetensors file, but not one written by Network.save")
        if (least := least_weights(metadata[_METADATA_KEY])) > len(weights):
            raise CheckpointError(
                path, f"its weights do not fit its configuration: it holds {len(weights):,} and needs {least:,} or more"
            )
        try:
            config = NetworkConfig.model_validate(json.loads(metadata[_METADATA_KEY]))
        except ValidationError as exc:
            raise CheckpointError(path, f"its configuration is not valid: {first_error(exc)}") from exc
        except (ValueError, RecursionError) as exc:
            raise CheckpointError(path, "its configuration is not valid: it is not a JSON object") from exc
        with torch.device("meta"):  # sizes are compared with those in the file before memory is allocated for them
            expected = cls(config).state_dict()
        _check_weights(path, expected, weights)
        network = cls(config)
        network.load_state_dict(weights)
        return network.eval()


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(path, "no such file")
    try:
        with safe_open(path, framework="pt") as file:
            names: Callable[[], list[str]] = file.keys
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names()}
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(path, f"not a whole safetensors file ({exc})") from exc


def _check_weights(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    if expected.keys() != found.keys():
        differing = sorted(expected.keys() ^ found.keys())
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise CheckpointError(path, f"its weights do not fit its configuration: {', '.join(differing[:5])}{more}")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise CheckpointError(
                path, f"{name} has the shape {tuple(found[name].shape)} and should be {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not found[name].is_floating_point():
            dtype = str(found[name].dtype).removeprefix("torch.")
            raise CheckpointError(path, f"the weight {name!r} is of {dtype}: save it as real numbers, float32")
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(path, f"the weight {name!r} holds NaN or infinity")
