"""The runner: an onnxruntime session over an arena. One run is one batch; nothing else computes."""

import math
import struct
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from models.card import ModelCard
from service.engine.arena import INITIAL, SINK, Arena

MAX_ROW_STEPS = 4096
"""Rows × time steps of the largest run; input and output buffers are made for it once."""

_MAX_BINDINGS = 1024


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run of `batch` rows and `steps` time steps takes: run + steps × (step + row × batch), all in seconds."""

    run: float
    step: float
    row: float

    def of(self, batch: int, steps: int) -> float:
        """Return the seconds that a run takes."""
        return self.run + steps * (self.step + self.row * batch)

    def steps_within(self, seconds: float, batch: int) -> int:
        """Return the most time steps, at least 1, that `batch` rows can take within `seconds`."""
        return max(1, int((seconds - self.run) / max(self.step + self.row * batch, 1e-9)))

    def rows_within(self, seconds: float) -> int:
        """Return the most rows, at least 1, that can take one time step within `seconds`."""
        return max(1, int((seconds - self.run - self.step) / max(self.row, 1e-9)))


class Binding:
    """The prepared inputs and outputs of one (batch, steps) shape.

    Fill `inputs` (or their bytes, `raw`), set the rows, run, then read `outputs` before the next run of any binding:
    all bindings of a runner share the memory of inputs and outputs. `_full` tells that all lengths are `steps`.
    """

    __slots__ = (
        "_checked",
        "_finite",
        "_floats",
        "_full",
        "_lengths",
        "_mixed",
        "_pack_slots",
        "_slots",
        "batch",
        "inputs",
        "io",
        "outputs",
        "raw",
        "steps",
    )

    def __init__(self, runner: "Runner", batch: int, steps: int) -> None:
        card, arena = runner.card, runner.arena
        self.batch, self.steps = batch, steps
        self.io = runner.session.io_binding()
        self.inputs: list[np.ndarray] = []
        self.raw: list[memoryview] = []
        for spec in card.inputs:
            view = runner.buffer(spec.name, np.dtype(spec.dtype), (batch, steps, *spec.shape))
            self._bind_input(spec.name, view)
            self.inputs.append(view)
            self.raw.append(view.reshape(-1).view(np.uint8).data)
        self._lengths, self._full = np.full(batch, steps, np.int64), True
        if card.ragged:
            self._bind_input("lengths", self._lengths)
        slots = np.zeros((2, batch), np.int64)
        self._bind_input("read_slots", slots[0])
        self._bind_input("write_slots", slots[1])
        self._slots = slots.reshape(-1).view(np.uint8).data
        self._pack_slots = struct.Struct(f"={2 * batch}q").pack_into
        for name, tensor in arena.tensors.items():
            self.io.bind_ortvalue_input(f"arena.{name}", tensor)
            self.io.bind_ortvalue_output(f"arena_out.{name}", tensor)
        self._bind_outputs(runner)

    def _bind_input(self, name: str, view: np.ndarray) -> None:
        self.io.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(view))

    def _bind_outputs(self, runner: "Runner") -> None:
        """Bind outputs and new states; float32 ones lie side by side, to be checked in one go."""
        card, batch, steps = runner.card, self.batch, self.steps
        named = [(spec.name, spec.dtype, (batch, steps, *spec.shape)) for spec in card.outputs]
        named += [(f"state.{spec.name}", spec.dtype, (batch, *spec.shape)) for spec in card.states]
        flat = runner.buffer(
            "float32 outputs",
            np.dtype(np.float32),
            (sum(math.prod(shape) for _, dtype, shape in named if dtype == "float32"),),
        )
        start, views = 0, []
        for name, dtype, shape in named:
            if dtype == "float32":
                view = flat[start : start + math.prod(shape)].reshape(shape)
                start += view.size
            else:
                view = runner.buffer(name, np.dtype(dtype), shape)
            self.io.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(view))
            views.append(view)
        self._floats, self._finite = flat, runner.buffer("finite", np.dtype(bool), flat.shape)
        self._checked = [view for view in views if view.dtype.kind == "f"]
        self._mixed = any(view.dtype != np.float32 for view in self._checked)
        self.outputs = views[: len(card.outputs)]

    def set_rows(self, read: list[int], write: list[int], lengths: list[int] | None) -> None:
        """Set the slot that each row reads, the one it writes, and its true length; None stands for `steps` in all."""
        self._pack_slots(self._slots, 0, *read, *write)
        if lengths is not None:
            self._lengths[:] = lengths
            self._full = False
        elif not self._full:
            self._lengths[:] = self.steps
            self._full = True

    def not_finite_rows(self) -> np.ndarray | None:
        """Return which rows (batch,) have an output or a new state that is not finite; None where all are."""
        np.isfinite(self._floats, out=self._finite)
        if np.logical_and.reduce(self._finite) and not self._mixed:
            return None
        bad = np.zeros(self.batch, bool)
        for view in self._checked:
            bad |= ~np.isfinite(view.reshape(self.batch, -1)).all(axis=1)
        return bad if bad.any() else None


class Runner:
    """Runs batches of one model over one arena. Holds no state of its own: that is in the arena."""

    def __init__(self, session: ort.InferenceSession, card: ModelCard, arena: Arena) -> None:
        self.session, self.card, self.arena = session, card, arena
        self._bindings: dict[tuple[int, int], Binding] = {}
        self._memory: dict[str, np.ndarray] = {}

    def buffer(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        """Return the named buffer's first elements in the given shape; a grown buffer leaves old bindings theirs."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            self._bindings.clear()
            memory = self._memory[name] = np.zeros(max(size, 2 * memory.size if memory is not None else 0), dtype)
        return memory[:size].reshape(shape)

    def binding(self, batch: int, steps: int) -> Binding:
        """Return the binding of a shape, batch ≥ 1 and steps ≥ 1 (onnxruntime aborts the process on an empty batch)."""
        if batch < 1 or steps < 1:
            raise ValueError(f"a run needs at least one row and one step, got {batch} and {steps}")
        binding = self._bindings.get((batch, steps))
        if binding is None:
            if len(self._bindings) >= _MAX_BINDINGS:
                self._bindings.pop(next(iter(self._bindings)))
            binding = Binding(self, batch, steps)
            self._bindings[batch, steps] = binding
        return binding

    def run(self, binding: Binding) -> None:
        """Run one batch: gather, cells, scatter."""
        self.session.run_with_iobinding(binding.io)

    def close(self) -> None:
        """Free the arena and every buffer; nothing can be run any more."""
        self._bindings.clear()
        self._memory.clear()
        self.arena.drop()
        del self.session

    def idle_run(self, batch: int, steps: int) -> None:
        """Run a batch of zeros from the initial state into the sink: for warming up and measuring."""
        binding = self.binding(batch, steps)
        for view in binding.inputs:
            view[:] = 0
        binding.set_rows([INITIAL] * batch, [SINK] * batch, None)
        self.run(binding)

    def time_of(self, batch: int, steps: int, rounds: int = 5) -> float:
        """Return the median seconds of an idle run."""
        self.idle_run(batch, steps)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            self.idle_run(batch, steps)
            times.append(time.perf_counter() - start)
        return median(times)

    def measure(self) -> Costs:
        """Measure what runs cost here, from three shapes."""
        rows = min(self.card.max_batch, 64)
        one, long, wide = self.time_of(1, 1, 9), self.time_of(1, 33), self.time_of(rows, 1)
        both = max((long - one) / 32, 1e-8)
        row = min(max((wide - one) / (rows - 1), 1e-9), both) if rows > 1 else both
        return Costs(run=max(one - both, 1e-6), step=both - row, row=row)
