"""onnxruntime behind an arena, as the service runs it, for one model under test."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from models.card import StateSpec

Array = npt.NDArray[Any]

INITIAL_SLOT = 0
FIRST_FREE_SLOT = 2


class ArenaRunner:
    """Run a served graph with each arena bound as input and output, in the same buffer.

    `arenas` are the buffers themselves: rows written here are seen by the next run. Slot 0 holds the initial state;
    all other rows start as noise, so that reading a wrong one is noticed.
    """

    def __init__(self, model: bytes, states: Sequence[StateSpec], slots: int, seed: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._states = tuple(states)
        noise = np.random.default_rng(seed)
        self.arenas: dict[str, Array] = {}
        for spec in self._states:
            arena = noise.standard_normal((slots, *spec.shape)).astype(spec.dtype)
            arena[INITIAL_SLOT] = (
                np.reshape(spec.initial, spec.shape) if isinstance(spec.initial, tuple) else spec.initial
            )
            self.arenas[spec.name] = arena
        # on the CPU an OrtValue shares numpy's memory
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(arena) for name, arena in self.arenas.items()}

    def run(self, x: Array, lengths: Array, read: Array, write: Array) -> tuple[Array, dict[str, Array]]:
        """Advance rows `read` by their chunk into rows `write`.

        x is (batch, time, …), lengths, read and write are int64 (batch,). Returns y (batch, time, outputs) and the new
        rows of each state, (batch, *shape).
        """
        binding = self._bind(x, lengths, read, write)
        self._session.run_with_iobinding(binding)
        # outputs come in the order they were bound; copying them all would copy the arenas too
        values = binding.get_outputs()
        y, *rows = (values[place].numpy() for place in range(1 + len(self._states)))
        return y, dict(zip((spec.name for spec in self._states), rows, strict=True))

    def prepare(self, x: Array, lengths: Array, read: Array, write: Array) -> Callable[[], None]:
        """Return the run of these very rows and inputs, to be done again and again."""
        return partial(self._session.run_with_iobinding, self._bind(x, lengths, read, write))

    def _bind(self, x: Array, lengths: Array, read: Array, write: Array) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, value in (("x", x), ("lengths", lengths), ("read_slots", read), ("write_slots", write)):
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)))
        for name in ("y", *(f"state.{spec.name}" for spec in self._states)):
            binding.bind_output(name, "cpu")
        for name, arena in self._values.items():
            binding.bind_ortvalue_input(f"arena.{name}", arena)
            binding.bind_ortvalue_output(f"arena_out.{name}", arena)
        return binding

    def snapshot(self) -> Mapping[str, Array]:
        """Return a copy of all arenas."""
        return {name: arena.copy() for name, arena in self.arenas.items()}
