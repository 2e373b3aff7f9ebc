"""The outputs of one run."""

import numpy as np
import pytest

from service.engine.outputs import RunOutputs, output_tensor, raw_outputs, split_rows


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_rows_are_cut_as_slices_are(rows: int, size: int) -> None:
    """Zeros at the end of a row stay."""
    raw = np.random.default_rng(rows).integers(0, 3, rows * size).astype(np.uint8).tobytes()
    assert split_rows(raw, rows) == [raw[at : at + size] for at in range(0, len(raw), size)]


def test_the_outputs_of_a_chunk_that_was_cut_are_put_together() -> None:
    """Of each run, the chunk's own row and steps, one run after the other; of each output in turn as raw bytes."""
    first = RunOutputs([np.arange(12, dtype=np.float32).reshape(2, 3, 2), np.arange(6, dtype=np.int64).reshape(2, 3)])
    second = RunOutputs([np.full((1, 2, 2), 9, np.float32), np.full((1, 2), 8, np.int64)])
    rows = [(first, 1, 3), (second, 0, 1)]
    y, label = output_tensor(rows), output_tensor(rows, 1)
    assert y.tolist() == [[6, 7], [8, 9], [10, 11], [9, 9]]
    assert label.tolist() == [3, 4, 5, 8]
    assert raw_outputs(rows) == y.tobytes() + label.tobytes()
    assert raw_outputs(rows[:1]) == y[:3].tobytes() + label[:3].tobytes()
