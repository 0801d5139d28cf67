"""Who waits for a decoder or a device, under one lock; what begins next is decided in `core/batching/choice.py`.

An image is *to decode*, *decoding*, *ready* or *running*, a text *ready* or *running*. Decoders are told of each job by
`grant`; device threads ask for theirs. Knows neither engines nor processes.
"""

import heapq
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from typing import Protocol

from core.batching.choice import DECODE_PATIENCE_S, Choice, State, choose, due_times, texts_of_a_pass
from core.batching.items import Encoded, Item, Modality
from core.errors import NotReady, Overloaded

# How many waiting texts are looked through for those that go together.
_LOOKED_THROUGH = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_items` bounds what is anywhere between admission and its row; `max_turn_s`: see `choice.State`."""

    max_items: int
    max_batch: int
    max_tokens: int
    max_turn_s: float


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass takes."""

    modality: Modality
    items: Sequence[Item]

    @property
    def units(self) -> int:
        """Images, or padded tokens."""
        return len(self.items) * max(item.width for item in self.items)


class Worker(Protocol):
    """A device as the scheduler sees it."""

    def limit(self, modality: Modality) -> int:
        """How many items it takes at once, at present."""


@dataclass(order=True, slots=True)
class _Entry:
    """An image in a heap: by its request's arrival, then by its place in the request."""

    arrived_s: float
    number: int
    item: Item = field(compare=False)


class Scheduler:
    """Thread-safe. `shared` says that decoders and device use the same cores: then images are decoded when `grant`
    has been called with them, `decoders` at once; else whenever their decoder likes.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        shared: bool,
        decoders: int,
        grant: Callable[[Item], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._grant = grant
        self._clock = clock
        self._changed = threading.Condition()
        self._state = State(shared, limits.max_turn_s, limits.max_batch, decoders)
        self._decoding: dict[Item, float] = {}
        self._state.decoding_s = self._decoding.values()
        self._to_decode: list[_Entry] = []
        self._ready: list[_Entry] = []
        self._texts: list[Item] = []
        self._numbers = count()
        self._inside: set[Item] = set()
        self._running: set[Item] = set()
        self._closed = False

    @property
    def items(self) -> int:
        """Images and texts between admission and their row, of which there are `limit` at most."""
        return len(self._inside)

    @property
    def limit(self) -> int:
        """How many may be."""
        return self._limits.max_items

    @property
    def waiting_items(self) -> int:
        """Images and texts that wait for a decoder or a device."""
        return len(self._to_decode) + len(self._ready) + len(self._texts)

    @property
    def waiting_s(self) -> float:
        """What one device needs for them, going by the latest passes; 0.0 before any."""
        tokens = sum(item.width for item in list(self._texts))
        images = len(self._to_decode) + len(self._ready)
        pace = self._state.pace.unit_s
        return images * pace[Modality.IMAGE] + tokens * pace[Modality.TEXT]

    @property
    def image_s(self) -> float:
        """What one device needs for an image, going by the latest passes; 0.0 before any."""
        return self._state.pace.unit_s[Modality.IMAGE]

    @contextmanager
    def entered(self, items: Sequence[Item]) -> Iterator[None]:
        """Hold places for `items`, which are of one request, until the block ends; what is still queued then is not.

        Raises `NotReady` when closed, and `Overloaded` when they do not all fit.
        """
        with self._changed:
            if self._closed:
                raise NotReady
            if len(self._inside) + len(items) > self._limits.max_items:
                raise Overloaded
            self._inside.update(items)
        try:
            yield
        finally:
            self._leave(items)

    def add_texts(self, items: Iterable[Item]) -> None:
        """The texts of one request wait for the device; those of one width go together."""
        with self._changed:
            ready_s = self._clock()
            waiting = sorted((item for item in items if not self._is_over(item)), key=attrgetter("width"))
            for item, due_s in zip(waiting, due_times(ready_s, len(waiting)), strict=True):
                item.ready_s, item.due_s = ready_s, due_s
                insort(self._texts, item, key=attrgetter("due_s"))
            if waiting:
                self._state.text_came_s = ready_s
            grants = self._look()
        self._send(grants)

    def add_fetched(self, items: Iterable[Item]) -> None:
        """Images could be decoded now. Only where cores are shared."""
        with self._changed:
            for item in items:
                if not self._is_over(item):
                    heapq.heappush(self._to_decode, self._entry(item))
            grants = self._look()
        self._send(grants)

    def add_decoded(self, items: Iterable[Item]) -> None:
        """Images wait for the device."""
        with self._changed:
            for item in items:
                self._decoding.pop(item, None)
                if not self._is_over(item):
                    item.ready_s = self._clock()
                    heapq.heappush(self._ready, self._entry(item))
            grants = self._look()
        self._send(grants)

    def withdraw(self, items: Iterable[Item]) -> None:
        """The decode of these has ended in an error, or begins anew elsewhere: nothing waits for it."""
        with self._changed:
            self._forget(set(items))
            grants = self._look()
        self._send(grants)

    def next_pass(self, device: Worker) -> Pass | None:
        """Wait for the next pass of a free device and count it as running; None when closed."""
        while True:
            with self._changed:
                if self._closed:
                    return None
                begun = self._begin_if_possible(device)
                if begun is not None:
                    return begun
                grants = self._take_grants()
                if not grants:
                    # A decode grows too old to be waited for without anything happening.
                    self._changed.wait(DECODE_PATIENCE_S if self._decoding else None)
            self._send(grants)

    def finished(self, done: Pass, seconds: float) -> None:
        """A pass is over, well or not, after `seconds`."""
        with self._changed:
            state, now_s = self._refreshed(), self._clock()
            self._running.difference_update(done.items)
            state.passes -= 1
            state.pace.note(done.modality, done.units, seconds)
            if done.modality is Modality.IMAGE:
                turn_s = seconds if state.image_turn_s is None else now_s - state.image_turn_s
                state.image_turn_s = None
                state.note_image_turn(turn_s)
                if state.texts:
                    state.shares.note(Modality.IMAGE, turn_s)
            elif state.images_wait:
                state.shares.note(Modality.TEXT, seconds)
            grants = self._look()
        self._send(grants)

    def close(self, *, at_once: bool = False) -> None:
        """Take nothing more and answer what waits with `NotReady`; `at_once`, what runs as well."""
        with self._changed:
            self._closed = True
            over = set(self._inside) if at_once else self._inside - self._running
            self._forget(over)
            self._changed.notify_all()
        for item in over:
            item.settle(NotReady())

    def pass_if_possible(self, device: Worker) -> Pass | None:
        """As `next_pass`, for whoever cannot wait: None when it is no pass's turn."""
        with self._changed:
            return self._begin_if_possible(device)

    def _begin_if_possible(self, device: Worker) -> Pass | None:
        while True:
            choice, now_s = self._choice()
            if choice not in (Choice.IMAGES, Choice.TEXTS):
                return None
            begun = self._begin(choice, device, now_s)
            if begun is not None:
                # One device wakes the next, as long as there is something to begin.
                if self._choice()[0] is not Choice.WAIT:
                    self._changed.notify()
                return begun

    def _begin(self, choice: Choice, device: Worker, now_s: float) -> Pass | None:
        """Take the items of a pass; None if none of them is wanted any more."""
        state = self._state
        if choice is Choice.TEXTS:
            modality, taken = Modality.TEXT, self._take_texts(device.limit(Modality.TEXT))
        else:
            most = min(device.limit(Modality.IMAGE), state.max_images(now_s))
            modality, taken = Modality.IMAGE, self._take_images(most)
        items = [item for item in taken if item.still_wanted()]
        if not items:
            return None
        self._running.update(items)
        state.passes += 1
        if modality is Modality.TEXT:
            state.text_turn_s = now_s if state.text_turn_s is None else state.text_turn_s
            state.image_turn_s = None
        else:
            state.text_turn_s = None
            state.image_turn_s = now_s if state.image_turn_s is None else state.image_turn_s
        return Pass(modality, items)

    def _take_images(self, most: int) -> list[Item]:
        return [heapq.heappop(self._ready).item for _ in range(min(most, len(self._ready)))]

    def _take_texts(self, most: int) -> list[Item]:
        looked_at = self._texts[:_LOOKED_THROUGH]
        widths = [item.width for item in looked_at]
        max_tokens = self._state.max_tokens(self._limits.max_tokens)
        positions = set(texts_of_a_pass(widths, max_texts=most, max_tokens=max_tokens))
        self._texts[:_LOOKED_THROUGH] = [item for position, item in enumerate(looked_at) if position not in positions]
        return [looked_at[position] for position in sorted(positions)]

    def _look(self) -> list[Item]:
        """Something has changed: wake a device if one may begin, and return the images to decode now."""
        grants = self._take_grants()
        # With a decode under way, to look again when that grows too old to be waited for.
        if grants or self._choice()[0] is not Choice.WAIT:
            self._changed.notify()
        return grants

    def _take_grants(self) -> list[Item]:
        grants: list[Item] = []
        while True:
            choice, now_s = self._choice()
            if choice is not Choice.DECODE:
                return grants
            item = heapq.heappop(self._to_decode).item
            if item.still_wanted():
                if self._state.image_turn_s is None:
                    self._state.image_turn_s = now_s
                self._decoding[item] = now_s
                grants.append(item)

    def _choice(self) -> tuple[Choice, float]:
        now_s = self._clock()
        return choose(self._refreshed(), now_s), now_s

    def _send(self, granted: Iterable[Item]) -> None:
        """Outside of the lock: it writes to a process."""
        for item in granted:
            self._grant(item)

    def _refreshed(self) -> State:
        state = self._state
        state.to_decode, state.ready, state.texts = len(self._to_decode), len(self._ready), len(self._texts)
        state.oldest_text_s = self._texts[0].ready_s if self._texts else float("inf")
        return state

    def _entry(self, item: Item) -> _Entry:
        return _Entry(item.group.arrived_s, next(self._numbers), item)

    def _is_over(self, item: Item) -> bool:
        return item not in self._inside or item.outcome is not None

    def _leave(self, items: Sequence[Item]) -> None:
        with self._changed:
            self._inside.difference_update(items)
            # Whatever has no row may still stand in a queue: its request ended before its pass began. And one whose row
            # was found elsewhere may be in a decoder that tells nobody of its end.
            left = {item for item in items if not isinstance(item.outcome, Encoded) or item in self._decoding}
            if left:
                self._forget(left)
            grants = self._look() if left else []
        self._send(grants)

    def _forget(self, items: set[Item]) -> None:
        """Take them out of every queue."""
        for item in items:
            self._decoding.pop(item, None)
        for heap in (self._to_decode, self._ready):
            kept = [entry for entry in heap if entry.item not in items]
            if len(kept) != len(heap):
                heap[:] = kept
                heapq.heapify(heap)
        if any(item in items for item in self._texts):
            self._texts = [item for item in self._texts if item not in items]
