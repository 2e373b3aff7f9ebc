"""Finding and opening artefacts: the newest version of each model, and its card checked against its graph."""

import os
import re
import stat
from pathlib import Path

import onnxruntime as ort
from pydantic import ValidationError

from models.card import CARD_KEY, ModelCard, SealError, TensorSpec, check_seal
from service.errors import ArtefactRefused, RefusedToStart
from service.repository.external_data import WireError, has_external_data

_MAX_BYTES = 2**31 - 1
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "bool": "tensor(bool)",
}


def find_artefacts(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Return by model name the versions in a folder MODEL/VERSION/model.onnx and their files, the highest first."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.glob("*/*/model.onnx"):
        name, version = path.parts[-3:-1]
        if not re.fullmatch(r"[1-9][0-9]{0,17}", version) or not re.fullmatch(
            r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name
        ):
            continue
        found.setdefault(name, []).append((int(version), path))
    return {name: sorted(versions, reverse=True) for name, versions in found.items()}


def _read(path: Path) -> bytes:
    """Read a regular file, or a link to one, of a bounded size; a named pipe or a device is not waited for.

    Raises:
        ArtefactRefused: It is something else, or too large.
        OSError: It cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        described = os.fstat(file.fileno())
        if not stat.S_ISREG(described.st_mode):
            raise ArtefactRefused(f"{path}: expected a regular file, found a pipe, a device or something else")
        if described.st_size > _MAX_BYTES:
            raise ArtefactRefused(f"{path}: larger than {_MAX_BYTES} bytes, the most that a model file can be")
        return file.read(_MAX_BYTES)


def check_provider(provider: str) -> None:
    """Check that the installed onnxruntime has the provider; raise RefusedToStart otherwise."""
    if _PROVIDERS[provider] not in ort.get_available_providers():
        raise RefusedToStart(
            f"--provider {provider} needs {_PROVIDERS[provider]}, but the installed onnxruntime {ort.__version__} has "
            f"only {', '.join(ort.get_available_providers())}: install onnxruntime-gpu in its place"
        )


def open_artefact(path: Path, provider: str = "cpu", threads: int = 1) -> tuple[ort.InferenceSession, ModelCard]:
    """Open a model file and check its card against its graph.

    Raises:
        ArtefactRefused: The file is damaged or not an artefact, or its graph does not match its card.
        RefusedToStart: The provider is CUDA, and no CUDA device could be used.
    """
    try:
        data = _read(path)
        check_seal(data)
        if has_external_data(data):
            raise ArtefactRefused(f"{path}: a tensor's values lie outside the file: an artefact holds all of them")
    except OSError as exc:
        raise ArtefactRefused(f"{path} cannot be read: {exc}") from exc
    except (SealError, WireError) as exc:
        raise ArtefactRefused(f"{path}: {exc}") from exc
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(data, options, providers=[_PROVIDERS[provider]])
    except Exception as exc:  # onnxruntime raises exceptions of many types
        raise ArtefactRefused(f"{path}: onnxruntime cannot load it: {exc}") from exc
    if provider == "cuda" and _PROVIDERS[provider] not in session.get_providers():
        raise RefusedToStart("--provider cuda: onnxruntime has the provider, but no CUDA device could be used")
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ArtefactRefused(f"{path}: expected a model card in the file's metadata, found none")
    try:
        card = ModelCard.model_validate_json(text)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        raise ArtefactRefused(f"{path}: the card's {'.'.join(map(str, error['loc']))}: {error['msg']}") from exc
    disagreement = graph_disagreement(session, card)
    if disagreement is not None:
        raise ArtefactRefused(f"{path}: the card disagrees with the graph: {disagreement}")
    return session, card


def graph_disagreement(session: ort.InferenceSession, card: ModelCard) -> str | None:
    """Return how the graph differs from the card, or None; tensors are paired by name."""

    def tensors(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        return {spec.name: (_TYPES[spec.dtype], (None, None, *spec.shape)) for spec in specs}

    inputs = tensors(card.inputs) | {
        "read_slots": ("tensor(int64)", (None,)),
        "write_slots": ("tensor(int64)", (None,)),
    }
    outputs = tensors(card.outputs)
    if card.ragged:
        inputs["lengths"] = ("tensor(int64)", (None,))
    for state in card.states:
        inputs[f"arena.{state.name}"] = outputs[f"arena_out.{state.name}"] = (_TYPES[state.dtype], (None, *state.shape))
        outputs[f"state.{state.name}"] = (_TYPES[state.dtype], (None, *state.shape))
    for what, expected, nodes in (
        ("input", inputs, session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        actual = {
            node.name: (node.type, tuple(d if isinstance(d, int) else None for d in node.shape)) for node in nodes
        }
        if card.max_batch == 1:  # the graph may declare a fixed batch size of 1
            actual = {name: (dtype, _any_batch(shape)) for name, (dtype, shape) in actual.items()}
        for name, described in expected.items():
            if name not in actual:
                return f"expected an {what} {name}, the graph has {', '.join(sorted(actual))}"
            if actual[name] != described:
                return f"{what} {name}: expected {_shown(described)}, the graph has {_shown(actual[name])}"
        extra = sorted(actual.keys() - expected.keys())
        if extra:
            return f"the graph has an {what} {extra[0]} that the card does not know"
    return None


def _any_batch(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return a shape with a variable batch size in place of 1."""
    return (None, *shape[1:]) if shape[:1] == (1,) else shape


def _shown(described: tuple[str, tuple[int | None, ...]]) -> str:
    dtype, shape = described
    return f"{dtype} [{', '.join('?' if dim is None else str(dim) for dim in shape)}]"
