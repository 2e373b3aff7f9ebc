"""The outputs of one run, shared by all its rows."""

import numpy as np


class RunOutputs:
    """A tensor (batch, time, *shape) for each output of the model; `steps` is the length of the time axis.

    `json`, `flat` and `raw` cache each row's outputs once they have been encoded: all rows are encoded in one call,
    when the first is asked for. `json` holds the first output as nested JSON arrays, `flat` as numbers without
    brackets; `raw` holds all outputs as raw bytes, one output behind the other.
    """

    __slots__ = ("flat", "json", "raw", "steps", "tensors")

    def __init__(self, tensors: list[np.ndarray]) -> None:
        self.tensors, self.steps = tensors, tensors[0].shape[1]
        self.json: list[bytes] | None = None
        self.flat: list[bytes] | None = None
        self.raw: list[bytes] | None = None

    def raw_rows(self) -> list[bytes]:
        """Return each row's outputs as raw bytes, one output behind the other."""
        if self.raw is None:
            if len(self.tensors) == 1:
                self.raw = split_rows(self.tensors[0].tobytes(), len(self.tensors[0]))
            else:
                self.raw = [b"".join([each.tobytes() for each in row]) for row in zip(*self.tensors, strict=True)]
        return self.raw


def split_rows(raw: bytes, rows: int) -> list[bytes]:
    """Cut bytes into equally long rows, as numpy does in a seventh of the time that slices take."""
    return [raw] if rows == 1 else np.frombuffer(raw, f"V{len(raw) // rows}").tolist()


OutputRow = tuple[RunOutputs, int, int]
"""Where a chunk's outputs are: a run, the row of the chunk in it, and how many of the run's steps are the chunk's."""


def raw_outputs(rows: list[OutputRow]) -> bytes:
    """Return a chunk's outputs as raw bytes, one output behind the other, each (steps, *shape)."""
    if len(rows) == 1:
        run, row, steps = rows[0]
        if steps == run.steps:
            return (run.raw or run.raw_rows())[row]
    outputs = range(len(rows[0][0].tensors))
    return b"".join([run.tensors[k][row, :steps].tobytes() for k in outputs for run, row, steps in rows])


def output_tensor(rows: list[OutputRow], output: int = 0) -> np.ndarray:
    """Return one output of a chunk, (steps, *shape)."""
    parts = [run.tensors[output][row, :steps] for run, row, steps in rows]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
