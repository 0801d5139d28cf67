"""Rows that have been computed, and those that are being computed: what is asked for again is not embedded again.

In memory, of one process, and behind that what processes share (`core/cache_tier.py`), where there is such a thing.
Knows neither the wire nor engines: a row is known by the SHA-256 of what was embedded.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from core import metrics
from core.batching.items import Encoded, Item, Modality
from core.errors import InternalError
from core.lookups import Lookups
from core.metrics import Reading

logger = logging.getLogger(__name__)

# What an entry takes beside its numbers: the key, an array's head, the row, places in two tables. Measured by a test.
ENTRY_BYTES = 512

Key = bytes

# Has items computed, all of them or one by one.
Compute = Callable[[Sequence[Item]], object]


class Shared(Protocol):
    """Rows of all processes; see `core.cache_tier.SharedRows`."""

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Encoded]:
        """Return those rows that are there. Blocks for a moment, and never raises."""

    def put(self, key: Key, row: Encoded) -> None:
        """Have a row kept; never blocks, never raises."""


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


@dataclass(frozen=True, slots=True)
class _Unsure:
    """The first one of `flight`, whose row may be there: it is computed, by `compute`, if it is not."""

    flight: _Flight
    key: Key
    compute: Compute


class Cache:
    """Thread-safe. `max_bytes` bounds what it holds, the least recently used rows go first.

    `model` says whose rows they are: fingerprint, engine and numeric type. Rows are as the engine gave them, so that
    one serves answers with and without norm 1. What memory does not have is looked up in `shared` before it is
    computed.
    """

    def __init__(self, max_bytes: int, *, model: str, shared: Shared | None = None) -> None:
        self._max_bytes = max_bytes
        self._model = model.encode()
        self._shared = shared
        self._lock = threading.Lock()
        self._rows: OrderedDict[Key, Encoded] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._key_of_first: dict[Item, Key] = {}
        # The first ones whose row is being looked up in `shared`: whether they are computed is open.
        self._looked_up: dict[Item, _Flight] = {}
        # Those who waited for one that is gone, and for which, until a thread of the cache's own sees to them.
        self._left: dict[Item, _Flight] = {}
        self._counts = dict.fromkeys(Modality, Counts())
        # Not on the thread that has failed: that may hold a lock which computing takes.
        self._again = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._lookups = Lookups[_Unsure](self._look_up_elsewhere)
        self.used_bytes = 0

    @property
    def counts(self) -> Mapping[Modality, Counts]:
        """Since the start."""
        return dict(self._counts)

    def readings(self) -> Iterator[Reading]:
        """How often a row was there, and what rows take, for metrics."""
        for modality, counts in self.counts.items():
            yield Reading(metrics.CACHE_HITS, (modality.value,), counts.hits)
            yield Reading(metrics.CACHE_MISSES, (modality.value,), counts.misses)
        yield Reading(metrics.CACHE_BYTES, (), self.used_bytes)

    def key(self, modality: Modality, content: bytes) -> Key:
        """Of what is embedded: the token ids of a text, the SHA-256 of an image's file."""
        return hashlib.sha256(b"|".join((self._model, modality.value.encode(), content))).digest()

    def settle_known(self, wanted: Sequence[tuple[Item, Key]]) -> None:
        """Settle those items whose rows are there. Blocks on what is shared."""
        missed = [pair for pair in wanted if not self._settle_from_memory(*pair)]
        if missed and self._shared is not None:
            self._settle_found(missed, self._shared)

    def claim(self, wanted: Sequence[tuple[Item, Key]], compute: Compute, *, may_block: bool = True) -> None:
        """Settle those items whose rows are there and `compute` those that nobody else is computing.

        The rest wait for whoever computes the same. When that fails, each is computed by itself. Where this thread may
        not block on what is shared, another one does, and computes.
        """
        mine = [(item, key) for item, key in wanted if self._must_compute(item, key, compute)]
        self._compute(mine, compute, may_block=may_block)

    def _compute(self, mine: Sequence[tuple[Item, Key]], compute: Compute, *, may_block: bool) -> None:
        with self._lock:
            unsure = [_Unsure(self._looked_up[item], key, compute) for item, key in mine if item in self._looked_up]
            sure = [item for item, _ in mine if item not in self._looked_up]
        if sure:
            compute(sure)
        if unsure and may_block:
            for compute_these, items in self._look_up(unsure).items():
                compute_these(items)
        elif unsure:
            self._lookups.add(unsure)

    def put_off(self, items: Iterable[Item]) -> None:
        """These begin again elsewhere, with what may be another file, and are claimed once more. Until then nothing
        that is under way has them computed, and nobody waits for one of them: who did is claimed again.
        """
        gone = set(items)
        with self._lock:
            for item in gone:
                self._left.pop(item, None)
            for flight in self._flights.values():
                for item in flight.waiting.keys() & gone:
                    del flight.waiting[item]
            keys = [self._key_of_first[item] for item in gone if item in self._key_of_first]
            flights = [self._end_flight(key) for key in keys]
            for flight in flights:
                self._leave(flight)
        for key, flight in zip(keys, flights, strict=True):
            for item, compute in flight.waiting.items():
                self._again.submit(_tried, partial(self._claim_again, item, key, compute, flight), [item])

    def close(self) -> None:
        """Look up and compute nothing any more."""
        self._lookups.close()
        self._again.shutdown(cancel_futures=True)

    def _settle_from_memory(self, item: Item, key: Key) -> bool:
        with self._lock:
            row = self._found(item, key)
        if row is not None:
            item.settle(_as_cached(row))
        return row is not None

    def _look_up_elsewhere(self, waited: Sequence[_Unsure]) -> None:
        for one in waited:
            # One that nobody waits for any more is settled by that, and is no longer looked up.
            one.flight.first.still_wanted()
        with self._lock:
            unsure = [one for one in waited if self._is_looked_up(one)]
        left: dict[Compute, list[Item]] = {}
        _tried(lambda: left.update(self._look_up(unsure)), [one.flight.first for one in unsure])
        for compute, items in left.items():
            _tried(partial(compute, items), items)

    def _look_up(self, unsure: Sequence[_Unsure]) -> Mapping[Compute, list[Item]]:
        """Settle those whose rows are there; return the others, by what has them computed."""
        if unsure and self._shared is not None:
            self._settle_found([(one.flight.first, one.key) for one in unsure], self._shared)
        left: dict[Compute, list[Item]] = {}
        with self._lock:
            for one in filter(self._is_looked_up, unsure):
                item = one.flight.first
                del self._looked_up[item]
                self._count(item.modality, misses=1)
                left.setdefault(one.compute, []).append(item)
        return left

    def _is_looked_up(self, one: _Unsure) -> bool:
        """Not if it has been settled meanwhile, or put off, whatever it has been claimed for since."""
        return self._looked_up.get(one.flight.first) is one.flight

    def _settle_found(self, missed: Sequence[tuple[Item, Key]], shared: Shared) -> None:
        rows = shared.find(list(dict.fromkeys(key for _, key in missed)))
        for item, key in missed:
            if key in rows:
                self._land_found(item, key, rows[key])

    def _land_found(self, item: Item, key: Key, row: Encoded) -> None:
        """Keep a row of `shared`, and settle `item` with it and whoever waits for it to have the same."""
        waiting: Iterable[Item] = ()
        with self._lock:
            kept = self._store(key, row)
            first_of = self._key_of_first.get(item)
            if first_of is not None and first_of != key:
                # Put off meanwhile, and its server has something else under the same address by now.
                return
            if first_of is not None:
                waiting = self._end_flight(key).waiting
            for one in (item, *waiting):
                self._count(one.modality, hits=1)
        for one in (item, *waiting):
            one.settle(_as_cached(kept))

    def _must_compute(self, item: Item, key: Key, compute: Compute, left_by: _Flight | None = None) -> bool:
        with self._lock:
            if left_by is not None and not self._take_left(item, left_by):
                return False
            if self._key_of_first.get(item) == key:
                # It begins again: the process that it was in has ended.
                return True
            failed = self._end_other(item)
            row, is_first = self._row_or_flight(item, key, compute)
        if failed is not None:
            self._compute_again(failed)
        if row is not None:
            item.settle(_as_cached(row))
        if is_first:
            item.when_settled(self._landed)
        return is_first

    def _end_other(self, item: Item) -> _Flight | None:
        """It begins again, and its server has something else under the same address by now."""
        if item not in self._key_of_first:
            return None
        failed = self._end_flight(self._key_of_first[item])
        self._leave(failed)
        return failed

    def _row_or_flight(self, item: Item, key: Key, compute: Compute) -> tuple[Encoded | None, bool]:
        """The row, if it is there, and else whether this is the first who wants it."""
        row = self._found(item, key)
        flight = self._flights.get(key)
        if row is None and flight is not None:
            flight.waiting[item] = compute
        elif row is None:
            self._take_off(item, key)
        return row, row is None and flight is None

    def _take_off(self, item: Item, key: Key) -> None:
        flight = self._flights[key] = _Flight(item)
        self._key_of_first[item] = key
        if self._shared is None:
            self._count(item.modality, misses=1)
        else:
            self._looked_up[item] = flight

    def _end_flight(self, key: Key) -> _Flight:
        flight = self._flights.pop(key)
        del self._key_of_first[flight.first]
        self._looked_up.pop(flight.first, None)
        return flight

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
            key = self._key_of_first.get(item)
            if key is None:
                return
            flight = self._end_flight(key)
            # A cached one was not computed for this key: it was found for the file that was there before.
            row = self._store(key, outcome) if isinstance(outcome, Encoded) and not outcome.cached else None
            if row is not None:
                self._count(item.modality, hits=len(flight.waiting))
            else:
                self._leave(flight)
        if row is None:
            self._compute_again(flight)
            return
        for waiting in flight.waiting:
            waiting.settle(_as_cached(row))
        if self._shared is not None:
            self._shared.put(key, row)

    def _store(self, key: Key, row: Encoded) -> Encoded:
        """Keep a copy: the row is a part of its whole pass. What is kept already stays: it is the same."""
        known = self._rows.get(key)
        if known is not None:
            return known
        vector = np.array(row.vector)
        vector.setflags(write=False)
        kept = Encoded(vector, row.norm, 0.0, 0.0)
        self._rows[key] = kept
        self.used_bytes += ENTRY_BYTES + vector.nbytes
        while self.used_bytes > self._max_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.used_bytes -= ENTRY_BYTES + oldest.vector.nbytes
        return kept

    def _leave(self, flight: _Flight) -> None:
        self._left.update(dict.fromkeys(flight.waiting, flight))

    def _take_left(self, item: Item, left_by: _Flight) -> bool:
        """False where it has been put off meanwhile, whatever it may wait for, or be left by, since."""
        if self._left.get(item) is not left_by:
            return False
        del self._left[item]
        return True

    def _claim_again(self, item: Item, key: Key, compute: Compute, left_by: _Flight) -> None:
        if not item.still_wanted():
            with self._lock:
                self._take_left(item, left_by)
        elif self._must_compute(item, key, compute, left_by):
            self._compute([(item, key)], compute, may_block=False)

    def _compute_again(self, flight: _Flight) -> None:
        """Each by itself: what was wrong with the first need not be wrong with them, and may be."""
        for item, compute in flight.waiting.items():
            self._again.submit(_tried, partial(self._compute_alone, item, compute, flight), [item])

    def _compute_alone(self, item: Item, compute: Compute, left_by: _Flight) -> None:
        with self._lock:
            is_left = self._take_left(item, left_by)
        if is_left and item.still_wanted():
            with self._lock:
                self._count(item.modality, misses=1)
            compute([item])

    def _count(self, modality: Modality, *, hits: int = 0, misses: int = 0) -> None:
        before = self._counts[modality]
        self._counts[modality] = Counts(before.hits + hits, before.misses + misses)


def _as_cached(row: Encoded) -> Encoded:
    return Encoded(row.vector, row.norm, time.monotonic(), 0.0, cached=True)


def _tried(call: Callable[[], object], items: Iterable[Item]) -> None:
    """On a thread of the cache's own, where an error is that of `items`."""
    try:
        call()
    except Exception:
        logger.exception("an item of the cache could not be computed")
        for item in items:
            item.settle(InternalError())
