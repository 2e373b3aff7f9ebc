"""onnxruntime behind arenas, as the service runs it, for one graph under test."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import onnxruntime as ort

from export.errors import GraphFailedError
from export.figure import Array
from export.onnx_session import single_threaded
from export.sentences import foreign_error
from models.card import ModelCard

INITIAL_SLOT = 0
FIRST_FREE_SLOT = 2
_ERRORS = 3  # onnxruntime's log severity without warnings


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # onnxruntime raises many types
        raise GraphFailedError(foreign_error(exc)) from exc


class ArenaRunner:
    """Run a served graph with each arena bound as input and output, in the same buffer.

    Raises:
        GraphFailedError: onnxruntime does not load the graph; from `run`, it does not run it.

    `arenas` are the buffers themselves: rows written here are read by the next run. Slot 0 holds the initial state;
    all other rows start as noise, so that reading a wrong one is noticed.
    """

    def __init__(self, model: bytes, card: ModelCard, slots: int, seed: int = 0) -> None:
        with _errors_as_sentences():
            self._session = single_threaded(model, log_severity=_ERRORS)
        self._ragged = card.ragged
        self._fetched = [*(spec.name for spec in card.outputs), *(f"state.{spec.name}" for spec in card.states)]
        self.slots = slots
        noise = np.random.default_rng(seed)
        self.arenas: dict[str, Array] = {}
        for spec in card.states:
            arena = (3 * noise.standard_normal((slots, *spec.shape))).astype(spec.dtype)
            arena[INITIAL_SLOT] = (
                np.reshape(spec.initial, spec.shape) if isinstance(spec.initial, tuple) else spec.initial
            )
            self.arenas[spec.name] = arena
        # on the CPU an OrtValue shares numpy's memory
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(arena) for name, arena in self.arenas.items()}

    def run(
        self, inputs: Mapping[str, Array], read: Array, write: Array, lengths: Array | None = None
    ) -> dict[str, Array]:
        """Advance rows `read` by their chunk into rows `write`; return the outputs, and the new rows as `state.<s>`.

        Inputs and outputs are (batch, time, *shape), slots int64 (batch,), new rows (batch, *shape). `lengths` are the
        true lengths of padded chunks, int64 (batch,): all of the chunk unless given, for a graph that takes them.
        """
        with _errors_as_sentences():
            binding = self._bind(inputs, read, write, lengths)
            self._session.run_with_iobinding(binding)
        # outputs come as they were bound; copying them all would copy the arenas too
        return {name: value.numpy() for name, value in zip(self._fetched, binding.get_outputs(), strict=False)}

    def prepare(self, inputs: Mapping[str, Array], read: Array, write: Array) -> Callable[[], None]:
        """Return the run of these very rows and inputs, to be repeated."""
        return partial(self._session.run_with_iobinding, self._bind(inputs, read, write, None))

    def snapshot(self) -> dict[str, Array]:
        """Return a copy of all arenas."""
        return {name: arena.copy() for name, arena in self.arenas.items()}

    def _bind(self, inputs: Mapping[str, Array], read: Array, write: Array, lengths: Array | None) -> ort.IOBinding:
        feeds = {**inputs, "read_slots": read, "write_slots": write}
        if self._ragged:
            batch, time = next(iter(inputs.values())).shape[:2]
            feeds["lengths"] = np.full(batch, time, np.int64) if lengths is None else lengths
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)))
        for name in self._fetched:
            binding.bind_output(name, "cpu")
        for name, arena in self._values.items():
            binding.bind_ortvalue_input(f"arena.{name}", arena)
            binding.bind_ortvalue_output(f"arena_out.{name}", arena)
        return binding
