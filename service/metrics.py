"""Metrics: counts and durations, converted by prometheus-client when they are scraped.

No label contains a session id or text that a tenant sent.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from models.card import ModelCard

_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms of durations, in seconds."""


_COUNTERS = {
    "steps": "Time steps run, of sessions and predictions",
    "runs": "Runs of the engine",
    "rows": "Rows of all runs; divided by the runs, the mean batch",
    "sessions_created": "Sessions opened",
    "sessions_expired": "Sessions that ended by their idle limit",
    "sessions_lost": "Sessions that ended because the version of their model is no longer served",
}
_GAUGES = {
    "sessions_active": "Live sessions",
    "queue_entries": "Requests waiting or running",
    "slots_free": "Rows of the arena that are free",
    "state_bytes": "Bytes of the rows that are taken",
}


class Metrics(Collector):
    """All metrics of the service.

    `_requests` counts the responses by operation and HTTP status. `_durations` has, by operation, the number of
    durations up to each bound and above the last one, which are not cumulative, and then their sum in seconds.
    """

    def __init__(self, models: Callable[[], Iterable[tuple[ModelCard, dict[str, int]]]]) -> None:
        """Take a function that returns the card and the counts of each version of a model."""
        self._models = models
        self._requests: dict[tuple[str, int], int] = {}
        self._durations: dict[str, list[float]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count a response, and the seconds since its request was received."""
        key = (operation, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        try:
            counts = self._durations[operation]
        except KeyError:
            counts = self._durations[operation] = [0.0] * (len(_BOUNDS) + 2)
        counts[bisect_left(_BOUNDS, seconds)] += 1
        counts[-1] += seconds

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily("cellstream_requests", "Requests answered", labels=["operation", "status"])
        for (operation, status), count in self._requests.items():
            requests.add_metric([operation, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "cellstream_request_seconds", "From the request's head to its answer", labels=["operation"]
        )
        for operation, counts in self._durations.items():
            total = 0.0
            buckets: list[tuple[str, float]] = []
            for bound, number in zip((*map(str, _BOUNDS), "+Inf"), counts, strict=False):
                total += number
                buckets.append((bound, total))
            durations.add_metric([operation], buckets, sum_value=counts[-1])
        yield durations
        yield from self._of_models()

    def _of_models(self) -> Iterable[Metric]:
        models = list(self._models())
        for family, numbers in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, text in numbers.items():
                metric = family(f"cellstream_{name}", text, labels=["model", "version"])
                for card, counts in models:
                    metric.add_metric([card.name, str(card.version)], counts[name])
                yield metric
