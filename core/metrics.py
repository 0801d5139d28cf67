"""What is measured: every name, with its labels and its meaning, once; and how parts keep figures until they are read.

Knows no format and no library: `pod/metrics.py` writes them for Prometheus, whose conventions the names follow
(https://prometheus.io/docs/practices/naming/). The parts count under locks, or on threads, that are theirs anyway.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Kind(Enum):
    """What Prometheus calls the type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Together(Enum):
    """What the figures of a pod's processes are together."""

    SUM = "sum"
    LATEST = "mostrecent"
    """Of what they have in common: what the one said that spoke last."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A name as it stands in `/metrics`. `bounds` are the upper ones of a histogram's buckets, without infinity.

    Labels are bounded: a client is one of the settings', a code one of the error tree's, OK or GONE.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    together: Together = Together.SUM


# The code of what went well, beside those of the error tree.
OK = "OK"

# The code of what nobody waited for any more: no fault of the service's, and no answer that anybody has had.
GONE = "CLIENT_GONE"

# From a text that is alone on a GPU to a request at its time limit; a stage can be shorter than that.
_REQUEST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 90.0)
_STAGE_BOUNDS_S = (0.0001, 0.00025, 0.0005, *_REQUEST_BOUNDS_S)
_BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

REQUESTS = Metric(
    "clip_requests_total",
    Kind.COUNTER,
    "Requests, by what came of them; without a client's name where nobody knows whose it was",
    ("operation", "client", "code"),
)
REQUEST_SECONDS = Metric(
    "clip_request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request's head to its answer",
    ("operation",),
    _REQUEST_BOUNDS_S,
)
ITEMS = Metric(
    "clip_items_total",
    Kind.COUNTER,
    "Images and texts that were begun, by what came of each",
    ("modality", "client", "code"),
)
CLIENT_ITEMS = Metric(
    "clip_client_items_total", Kind.COUNTER, "Images and texts that a client has asked for", ("client",)
)
CLIENT_LIMITED_ITEMS = Metric(
    "clip_client_limited_items_total", Kind.COUNTER, "What of a client's items was over its limits", ("client",)
)
STAGE_SECONDS = Metric(
    "clip_stage_duration_seconds",
    Kind.HISTOGRAM,
    "Time that an image or text spent in a stage (download, decode, queue, forward), as its timings say",
    ("modality", "stage"),
    _STAGE_BOUNDS_S,
)
FORWARD_PASSES = Metric("clip_forward_passes_total", Kind.COUNTER, "Forward passes, each of one batch", ("modality",))
EMBEDDED_ITEMS = Metric(
    "clip_embedded_items_total", Kind.COUNTER, "Images and texts that went through a forward pass", ("modality",)
)
FORWARD_SECONDS = Metric(
    "clip_forward_seconds_total", Kind.COUNTER, "Time that forward passes took, over all devices", ("modality",)
)
QUEUE_SECONDS = Metric(
    "clip_queue_seconds_total", Kind.COUNTER, "Time that embedded items had waited for a device", ("modality",)
)
BATCH_SIZE = Metric("clip_batch_size_items", Kind.HISTOGRAM, "Items of a forward pass", ("modality",), _BATCH_BOUNDS)
TOKENS = Metric(
    "clip_tokens_total", Kind.COUNTER, "Tokens of forward passes: of texts, and what they were padded with", ("kind",)
)
CACHE_HITS = Metric(
    "clip_cache_hits_total", Kind.COUNTER, "Images and texts whose vector was there, or under way", ("modality",)
)
CACHE_MISSES = Metric(
    "clip_cache_misses_total", Kind.COUNTER, "Images and texts that the cache did not have", ("modality",)
)
CACHE_BYTES = Metric("clip_cache_bytes", Kind.GAUGE, "Memory that cached vectors take")
IMAGE_PROCESSES = Metric("clip_image_processes", Kind.GAUGE, "Image processes that run")
IMAGE_PROCESS_EXITS = Metric(
    "clip_image_process_exits_total", Kind.COUNTER, "Image processes that have ended, by why", ("reason",)
)
OUT_OF_MEMORY = Metric(
    "clip_device_out_of_memory_total",
    Kind.COUNTER,
    "Forward passes for which the device had no memory; each is tried again in halves",
    ("device",),
)
DEVICE_MEMORY = Metric(
    "clip_device_memory_bytes",
    Kind.GAUGE,
    "Memory of a CUDA device: used by anybody, and in total",
    ("device", "kind"),
    together=Together.LATEST,
)
READY = Metric("clip_ready", Kind.GAUGE, "Processes that serve")
PROCESSES = Metric("clip_processes", Kind.GAUGE, "Processes that serve, load or drain")
QUEUED_ITEMS = Metric("clip_queued_items", Kind.GAUGE, "Images and texts that wait for a decoder or a device")
QUEUED_SECONDS = Metric(
    "clip_queued_seconds",
    Kind.GAUGE,
    "Time that decoders and a device need for what waits, by the latest decodes and passes: an autoscaler goes by it",
)
ITEMS_IN_FLIGHT = Metric(
    "clip_items_in_flight", Kind.GAUGE, "Images and texts from their admission to their vector, downloads included"
)
ITEMS_LIMIT = Metric("clip_items_limit", Kind.GAUGE, "How many images and texts may be in flight")
REQUESTS_IN_FLIGHT = Metric("clip_requests_in_flight", Kind.GAUGE, "Requests that are being worked on")
REQUESTS_LIMIT = Metric(
    "clip_requests_limit",
    Kind.GAUGE,
    "How many requests may be in flight, in all processes together",
    together=Together.LATEST,
)
BYTES_IN_FLIGHT = Metric(
    "clip_bytes_in_flight", Kind.GAUGE, "Bytes that requests hold of bodies, sent images or pixels", ("kind",)
)
BYTES_LIMIT = Metric("clip_bytes_limit", Kind.GAUGE, "How many bytes of a kind may be in flight", ("kind",))
BUILD_INFO = Metric(
    "clip_build_info",
    Kind.GAUGE,
    "1, with what is served as labels",
    ("version", "commit", "model", "fingerprint", "engine", "dtype", "device"),
    together=Together.LATEST,
)

METRICS: Sequence[Metric] = (
    REQUESTS,
    REQUEST_SECONDS,
    REQUESTS_IN_FLIGHT,
    REQUESTS_LIMIT,
    ITEMS,
    CLIENT_ITEMS,
    CLIENT_LIMITED_ITEMS,
    STAGE_SECONDS,
    ITEMS_IN_FLIGHT,
    ITEMS_LIMIT,
    QUEUED_ITEMS,
    QUEUED_SECONDS,
    FORWARD_PASSES,
    BATCH_SIZE,
    EMBEDDED_ITEMS,
    FORWARD_SECONDS,
    QUEUE_SECONDS,
    TOKENS,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_BYTES,
    BYTES_IN_FLIGHT,
    BYTES_LIMIT,
    IMAGE_PROCESSES,
    IMAGE_PROCESS_EXITS,
    DEVICE_MEMORY,
    OUT_OF_MEMORY,
    READY,
    PROCESSES,
    BUILD_INFO,
)


class Distribution:
    """How many values lie in each bucket of a histogram, and their sum. Not thread-safe: it is its owner's.

    `counts` has one more than there are bounds: what is above them all.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, metric: Metric) -> None:
        self.bounds = metric.bounds
        self.counts = [0] * (len(metric.bounds) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        """One more value; a bound belongs to the bucket below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def note_all(self, values: Sequence[float]) -> None:
        """As `note` of each."""
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)

    def copy(self) -> "Distribution":
        """As it is now."""
        return self._with(list(self.counts), self.total)

    def __add__(self, other: "Distribution") -> "Distribution":
        counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        return self._with(counts, self.total + other.total)

    def _with(self, counts: list[int], total: float) -> "Distribution":
        made = Distribution.__new__(Distribution)
        made.bounds, made.counts, made.total = self.bounds, counts, total
        return made


@dataclass(frozen=True, slots=True)
class Reading:
    """What a metric is at present, in one process: since the start, or now. `labels` in the metric's order."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Distribution


class Measured(Protocol):
    """A part of the service that keeps figures."""

    def readings(self) -> Iterator[Reading]:
        """What they are now. From any thread, at any time."""


def by_label(metric: Metric, values: Mapping[str, float]) -> Iterator[Reading]:
    """The readings of a metric with one label."""
    return (Reading(metric, (label,), value) for label, value in values.items())
