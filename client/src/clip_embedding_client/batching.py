"""Any number of items as batches: which ones travel together, and whose each outcome is. No input or output.

A batch that fails as a whole fails for its own items only; what is sent again, or elsewhere, is decided below.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

from clip_embedding_client.effects import Flow
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.images import LoadedImage, loaded
from clip_embedding_client.operations import Batch, Sendable, payload_id
from clip_embedding_client.retry import Budget
from clip_embedding_client.router import Router
from clip_embedding_client.values import Embedding, ImageItem, Outcome, TextItem

# Of images' own bytes. In base64 it is a third more, and RunPod takes 20 MB of a job.
MOST_CONTENT_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class Chunk(Generic[Sendable]):
    """Items that follow each other, and the errors of those that cannot be sent, each by its position."""

    items: dict[int, Sendable] = field(default_factory=dict)
    errors: dict[int, ClipClientError] = field(default_factory=dict)
    content_bytes: int = 0

    def __len__(self) -> int:
        return len(self.items) + len(self.errors)

    def send(self, router: Router, budget: Budget) -> Flow[list[Outcome]]:
        """Return one outcome per item, in order. Raises only `BackendOff` and `ConfigurationError`."""
        outcomes: dict[int, Outcome] = {**self.errors}
        for wanted in _requests(self.items):
            sent = Batch([each.items[0] for each in wanted])
            results = yield from router.call(sent, budget)
            for each, result in zip(wanted, results, strict=True):
                outcomes.update(each.outcomes(result))
        return [outcomes[position] for position in range(len(self))]


class Chunker(Generic[Sendable]):
    """Takes items one by one, and gives a chunk as soon as it is full."""

    def __init__(self, most_items: int) -> None:
        self._most_items = most_items
        self._chunk: Chunk[Sendable] = Chunk()

    def add(self, item: Sendable | ClipClientError) -> Iterator[Chunk[Sendable]]:
        """Yield what is full: an item that does not fit any more begins the next one."""
        if isinstance(item, ClipClientError):
            self._chunk.errors[len(self._chunk)] = item
        else:
            size_bytes = item.size_bytes if isinstance(item, LoadedImage) else 0
            if self._chunk.items and self._chunk.content_bytes + size_bytes > MOST_CONTENT_BYTES:
                yield self._taken()
            self._chunk.items[len(self._chunk)] = item
            self._chunk.content_bytes += size_bytes
        if len(self._chunk) >= self._most_items:
            yield self._taken()

    def rest(self) -> Iterator[Chunk[Sendable]]:
        """Yield what has begun, if anything has."""
        if len(self._chunk):
            yield self._taken()

    def _taken(self) -> Chunk[Sendable]:
        chunk, self._chunk = self._chunk, Chunk[Sendable]()
        return chunk


def loaded_or_error(item: ImageItem) -> LoadedImage | ClipClientError:
    """What the service would say to this item it would say to the whole batch, hence the check here."""
    try:
        return loaded(item)
    except ClipClientError as error:
        return error


def checked_or_error(item: TextItem) -> TextItem | ClipClientError:
    try:
        item.check()
    except ClipClientError as error:
        return error
    return item


@dataclass(slots=True)
class _Wanted(Generic[Sendable]):
    """One item as it is sent, and everyone who asked for it: each that is equal but for its `request_id`."""

    positions: list[int]
    items: list[Sendable]

    def outcomes(self, outcome: Outcome) -> dict[int, Outcome]:
        """The outcome of the first item, as that of each: with its `request_id`, and its own to change."""
        pairs = zip(self.positions, self.items, strict=True)
        return {
            position: outcome
            if position == self.positions[0] and outcome.request_id == item.request_id
            else _copied(outcome, item.request_id)
            for position, item in pairs
        }


def _requests(items: dict[int, Sendable]) -> Iterator[Sequence[_Wanted[Sendable]]]:
    """Yield what goes into one request each: none holds a payload twice, because a service takes a signature once.

    What is signed does not tell normalised from not, so a payload that is asked for both ways goes into two.
    """
    same = dict[tuple[str, bool], _Wanted[Sendable]]()
    for position, item in items.items():
        wanted = same.setdefault((payload_id(item), item.normalize), _Wanted([], []))
        wanted.positions.append(position)
        wanted.items.append(item)
    once, again, seen = list[_Wanted[Sendable]](), list[_Wanted[Sendable]](), set[str]()
    for (payload, _), wanted in same.items():
        (again if payload in seen else once).append(wanted)
        seen.add(payload)
    yield from filter(None, (once, again))


def _copied(outcome: Outcome, request_id: str) -> Outcome:
    if isinstance(outcome, Embedding):
        return replace(outcome, request_id=request_id, vector=outcome.vector.copy())
    error = copy.copy(outcome)
    error.request_id = request_id
    # Which `copy` leaves behind, as it does the traceback.
    error.__cause__ = outcome.__cause__
    return error
