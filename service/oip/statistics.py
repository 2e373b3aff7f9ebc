"""Statistics of each model, its requests and where their time was spent, in the format of Triton's extension.

Requests of every API are counted. `inference_count` counts rows of runs, `execution_count` runs. The duration of a run
is added once for each of its rows, as each of them waits for the whole run, but only once in `batch_stats`.
"""

import time
from collections.abc import Callable
from typing import Any

import orjson

from service.api.request import Call, Reply, json_reply
from service.engine.statistics import RunDurations
from service.oip.models import served_model
from service.repository.repository import Repository
from service.repository.served_model import ServedModel


class ModelStatistics:
    """Answers requests for the statistics of models."""

    def __init__(self, repository: Repository, clock: Callable[[], float]) -> None:
        self._repository, self._clock = repository, clock

    async def of_all(self, call: Call, body: bytes) -> Reply:
        """Return the statistics of every model."""
        return self._reply(list(self._repository.models.values()))

    async def of_model(self, call: Call, body: bytes) -> Reply:
        """Return the statistics of one model."""
        return self._reply([served_model(self._repository, call.argument)])

    def _reply(self, models: list[ServedModel]) -> Reply:
        return json_reply(orjson.dumps({"model_stats": [self._of(model) for model in models]}))

    def _of(self, model: ServedModel) -> dict[str, Any]:
        counts = model.batcher.statistics
        answered = counts.succeeded.count + counts.failed.count
        last = time.time() - (self._clock() - counts.last) if answered else 0.0
        return {
            "name": model.name,
            "version": str(model.card.version),
            "last_inference": round(last * 1000),
            "inference_count": sum(size * runs.count for size, runs in counts.runs.items()),
            "execution_count": sum(runs.count for runs in counts.runs.values()),
            "inference_stats": {
                "success": _duration(counts.succeeded.count, counts.succeeded.seconds),
                "fail": _duration(counts.failed.count, counts.failed.seconds),
                "queue": _duration(counts.waited.count, counts.waited.seconds),
                "compute_input": _of_rows(counts.runs, lambda runs: runs.filling),
                "compute_infer": _of_rows(counts.runs, lambda runs: runs.running),
                "compute_output": _of_rows(counts.runs, lambda runs: runs.settling),
                "cache_hit": _duration(0, 0.0),
                "cache_miss": _duration(0, 0.0),
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": _duration(runs.count, runs.filling),
                    "compute_infer": _duration(runs.count, runs.running),
                    "compute_output": _duration(runs.count, runs.settling),
                }
                for size, runs in sorted(counts.runs.items())
            ],
            "memory_usage": [{"type": "CPU", "id": 0, "byte_size": model.memory}],
        }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def _of_rows(sizes: dict[int, RunDurations], part: Callable[[RunDurations], float]) -> dict[str, int]:
    rows = sum(size * runs.count for size, runs in sizes.items())
    return _duration(rows, sum(size * part(runs) for size, runs in sizes.items()))
