"""The check, at load, that a graph updates its arena in place and changes only the rows that it is given to write."""

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from models.card import ModelCard
from service.engine.arena import INITIAL, Arena
from service.engine.runner import Runner
from service.errors import ArtefactRefused

CHECK_SLOTS = (1_000, 100_000)
"""A step on the larger arena may take at most CHECK_RATIO times as long as one on the smaller arena."""
CHECK_RATIO = 1.5
CHECK_TRIES = 5
_CHECK_MEMORY = 256 << 20


def check_in_place(session: ort.InferenceSession, card: ModelCard, path: Path) -> None:
    """Check that a step takes as long on a large arena as on a small one, and changes only the rows it has to write.

    Raises:
        ArtefactRefused: The graph copies its arena, changes other rows, or does not run.
    """
    small, large = CHECK_SLOTS
    large = max(small, min(large, _CHECK_MEMORY // max(card.state_bytes, 1)))
    engines = [Runner(session, card, Arena(card.states, slots)) for slots in (small, large)]
    try:
        _check_other_rows(engines[0], path)
        if large < 10 * small:
            return  # the rows are so large that the two arenas would be too similar in size
        for _ in range(CHECK_TRIES):  # other processes may distort a comparison, so one that passes is enough
            times = [[engine.time_of(1, 1, 1) for engine in engines] for _ in range(9)]
            ratio = median(t[1] for t in times) / median(t[0] for t in times)
            if ratio <= CHECK_RATIO:
                return
    except ArtefactRefused:
        raise
    except Exception as exc:  # onnxruntime raises exceptions of many types
        raise ArtefactRefused(f"{path}: the graph does not run: {exc}") from exc
    raise ArtefactRefused(
        f"{path}: a step on {large} slots takes {ratio:.1f} times one on {small}: the graph copies its arena"
    )


def _check_other_rows(engine: Runner, path: Path) -> None:
    """Check that a step changes only the rows that it has to write; raise ArtefactRefused otherwise."""
    arena, random = engine.arena, np.random.default_rng(0)
    for rows in arena.rows.values():
        filler: Any = random.uniform(-1, 1, rows.shape) if rows.dtype.kind == "f" else random.integers(0, 2, rows.shape)
        rows[:] = filler.astype(rows.dtype)
    before = {name: rows.copy() for name, rows in arena.rows.items()}
    binding = engine.binding(2, 1) if engine.card.max_batch > 1 else engine.binding(1, 1)
    for view in binding.inputs:
        view[:] = 0
    written = [11, 13][: binding.batch]
    binding.set_rows([INITIAL, 7][: binding.batch], written, None)
    engine.run(binding)
    for name, rows in arena.rows.items():
        others = np.delete(np.arange(len(rows)), written)
        if not np.array_equal(rows[others], before[name][others]):
            raise ArtefactRefused(f"{path}: a step changed rows of state {name} that it was not to write")
