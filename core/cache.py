"""Rows that have been computed, and those that are being computed: what is asked for again is not embedded again.

In memory, of one process. Knows neither the wire nor engines: a row is known by the SHA-256 of what was embedded.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from core.batching.items import Encoded, Item, Modality
from core.errors import InternalError

logger = logging.getLogger(__name__)

# What an entry takes beside its numbers: the key, an array's head, the row, places in two tables. Measured by a test.
ENTRY_BYTES = 640

Key = bytes

# Has items computed, all of them or one by one.
Compute = Callable[[Sequence[Item]], object]


@dataclass(frozen=True, slots=True)
class Counts:
    """Answers that were there or under way, and those that had to be computed."""

    hits: int = 0
    misses: int = 0


@dataclass(slots=True)
class _Flight:
    """A row that is being computed, by `first`; the others wait for it, each with what to do if it fails."""

    first: Item
    waiting: dict[Item, Compute] = field(default_factory=dict)


class Cache:
    """Thread-safe. `max_bytes` bounds what it holds, the least recently used rows go first.

    `model` says whose rows they are: fingerprint, engine and numeric type. Rows are as the engine gave them, so that
    one serves answers with and without norm 1.
    """

    def __init__(self, max_bytes: int, *, model: str) -> None:
        self._max_bytes = max_bytes
        self._model = model.encode()
        self._lock = threading.Lock()
        self._rows: OrderedDict[Key, Encoded] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._key_of_first: dict[Item, Key] = {}
        self._counts = dict.fromkeys(Modality, Counts())
        # Not on the thread that has failed: that may hold a lock which computing takes.
        self._again = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self.used_bytes = 0

    @property
    def counts(self) -> Mapping[Modality, Counts]:
        """Since the start."""
        return dict(self._counts)

    def key(self, modality: Modality, content: bytes) -> Key:
        """Of what is embedded: the token ids of a text, the SHA-256 of an image's file."""
        return hashlib.sha256(b"|".join((self._model, modality.value.encode(), content))).digest()

    def settle_known(self, item: Item, key: Key) -> bool:
        """Settle `item` if its row is there; whether it was."""
        with self._lock:
            row = self._found(item, key)
        if row is not None:
            item.settle(_as_cached(row))
        return row is not None

    def claim(self, wanted: Sequence[tuple[Item, Key]], compute: Compute) -> None:
        """Settle those items whose rows are there and `compute` those that nobody else is computing.

        The rest wait for whoever computes the same. When that fails, each is computed by itself.
        """
        mine = [item for item, key in wanted if self._must_compute(item, key, compute)]
        if mine:
            compute(mine)

    def close(self) -> None:
        """Compute nothing anew any more."""
        self._again.shutdown(cancel_futures=True)

    def _must_compute(self, item: Item, key: Key, compute: Compute) -> bool:
        failed: _Flight | None = None
        with self._lock:
            if self._key_of_first.get(item) == key:
                # It begins again: the process that it was in has ended.
                return True
            if item in self._key_of_first:
                # And its server has something else under the same address by now.
                failed = self._flights.pop(self._key_of_first.pop(item))
            row = self._found(item, key)
            flight = self._flights.get(key)
            if row is None and flight is not None:
                flight.waiting[item] = compute
            elif row is None:
                self._flights[key] = _Flight(item)
                self._key_of_first[item] = key
                self._count(item.modality, misses=1)
        if failed is not None:
            self._compute_again(failed)
        if row is not None:
            item.settle(_as_cached(row))
            return False
        if flight is not None:
            return False
        item.when_settled(self._landed)
        return True

    def _found(self, item: Item, key: Key) -> Encoded | None:
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
            self._count(item.modality, hits=1)
        return row

    def _landed(self, item: Item) -> None:
        """The first of a flight has its row, or its error."""
        outcome = item.outcome
        with self._lock:
            key = self._key_of_first.pop(item, None)
            if key is None:
                return
            flight = self._flights.pop(key)
            if isinstance(outcome, Encoded):
                outcome = self._store(key, outcome)
                self._count(item.modality, hits=len(flight.waiting))
        if isinstance(outcome, Encoded):
            for waiting in flight.waiting:
                waiting.settle(_as_cached(outcome))
        else:
            self._compute_again(flight)

    def _store(self, key: Key, row: Encoded) -> Encoded:
        """Keep a copy: the row is a part of its whole pass."""
        vector = np.array(row.vector)
        vector.setflags(write=False)
        kept = Encoded(vector, row.norm, 0.0, 0.0)
        self._rows[key] = kept
        self.used_bytes += ENTRY_BYTES + vector.nbytes
        while self.used_bytes > self._max_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.used_bytes -= ENTRY_BYTES + oldest.vector.nbytes
        return kept

    def _compute_again(self, flight: _Flight) -> None:
        """Each by itself: what was wrong with the first need not be wrong with them, and may be."""
        for item, compute in flight.waiting.items():
            with self._lock:
                self._count(item.modality, misses=1)
            self._again.submit(_computed, compute, item)

    def _count(self, modality: Modality, *, hits: int = 0, misses: int = 0) -> None:
        before = self._counts[modality]
        self._counts[modality] = Counts(before.hits + hits, before.misses + misses)


def _as_cached(row: Encoded) -> Encoded:
    return Encoded(row.vector, row.norm, time.monotonic(), 0.0, cached=True)


def _computed(compute: Compute, item: Item) -> None:
    try:
        if item.still_wanted():
            compute([item])
    except Exception:
        logger.exception("an item could not be computed again")
        item.settle(InternalError())
