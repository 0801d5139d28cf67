"""`/metrics`: what the service has done and what waits, in Prometheus' text format. Each worker process has its own."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from core.batching.tally import Tally
from core.cache import Counts
from core.service import Service

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_COUNTERS: dict[str, tuple[str, Callable[[Tally], float]]] = {
    "clip_forward_passes": ("Forward passes, each of one batch", lambda tally: tally.passes),
    "clip_embedded_items": ("Images and texts that were embedded", lambda tally: tally.items),
    "clip_forward_seconds": ("Time that forward passes took, over all devices", lambda tally: tally.forward_s),
    "clip_queue_seconds": ("Time that embedded items had waited for a device", lambda tally: tally.queue_s),
}

_CACHE_COUNTERS: dict[str, tuple[str, Callable[[Counts], float]]] = {
    "clip_cache_hits": ("Images and texts whose vector was there, or under way", lambda counts: counts.hits),
    "clip_cache_misses": ("Images and texts that the cache did not have", lambda counts: counts.misses),
}


class ServiceCollector(Collector):
    """Reads the service when it is asked; nothing is counted twice."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        waiting = self._service.queued_items
        yield GaugeMetricFamily("clip_queued_items", "Images and texts that wait for a device", value=waiting)
        done = self._service.done
        for name, (meaning, value) in _COUNTERS.items():
            family = CounterMetricFamily(name, meaning, labels=["modality"])
            for modality, tally in done.items():
                family.add_metric([modality.value], value(tally))
            yield family
        cached = self._service.cached
        for name, (meaning, count) in _CACHE_COUNTERS.items():
            family = CounterMetricFamily(name, meaning, labels=["modality"])
            for modality, counts in cached.items():
                family.add_metric([modality.value], count(counts))
            yield family
        asked = self._service.asked
        yield _of_clients("clip_client_items", "Images and texts that a client has asked for", asked.items)
        yield _of_clients("clip_client_limited_items", "What of them was over its limits", asked.limited_items)


def _of_clients(name: str, meaning: str, items: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=["client"])
    for client, count in items.items():
        family.add_metric([client], count)
    return family


def exposition(service: Service) -> bytes:
    """The body of `/metrics`."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    return generate_latest(registry)
