"""Any number of images through batches: bounded concurrency, results in order, one per item.

A batch that fails as a whole fails for its own items only. Items whose own error can pass (their download timed
out) are sent again by themselves, as often and for as long as the retry policy allows a call.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from worker.errors import BackendOff, ClipClientError, ConfigurationError, RetryableError, ValidationFailed
from worker.operations import EmbedImageBatch
from worker.retry import RetryPolicy
from worker.values import Embedding, ImageItem

logger = logging.getLogger(__name__)

Outcome = Embedding | ClipClientError
Progress = Callable[[int, int], object]
Send = Callable[[EmbedImageBatch], list[Outcome]]


@dataclass(frozen=True, slots=True)
class _Place:
    """An item and where its result belongs."""

    position: int
    item: ImageItem


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """`send` answers one batch or raises a `ClipClientError`, its own retries done."""

    send: Send
    batch_size: int
    concurrency: int
    policy: RetryPolicy

    def run(self, items: Sequence[ImageItem], on_progress: Progress | None) -> list[Outcome]:
        """Return one outcome per item, in order. `on_progress(done, total)` is called in this thread."""
        refused = {position: error for position, item in enumerate(items) if (error := _refusal(item)) is not None}
        places = [_Place(position, item) for position, item in enumerate(items) if position not in refused]
        outcomes: dict[int, Outcome] = dict(refused)
        for finished in self._finished(places):
            outcomes |= finished
            _tell(on_progress, len(outcomes), len(items))
        return [outcomes[position] for position in range(len(items))]

    def _finished(self, places: Sequence[_Place]) -> Iterator[dict[int, Outcome]]:
        """Yield the outcomes of each batch as it ends."""
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="clip-batch")
        futures: list[Future[dict[int, Outcome]]] = [
            pool.submit(self._run_batch, places[start : start + self.batch_size])
            for start in range(0, len(places), self.batch_size)
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            # On an error of the caller (or Ctrl-C) what has not begun never does.
            pool.shutdown(cancel_futures=True)

    def _run_batch(self, places: Sequence[_Place]) -> dict[int, Outcome]:
        clock = self.policy.clock
        until_s = clock.monotonic() + self.policy.total_s
        outcomes: dict[int, Outcome] = {}
        pending = list(places)
        for attempt in range(1, self.policy.attempts + 1):
            try:
                results = self.send(EmbedImageBatch([place.item for place in pending]))
            except (BackendOff, ConfigurationError):
                # Nothing was wrong with the items, and no item will ever do better: that is the caller's to know.
                raise
            except ClipClientError as error:
                return outcomes | {place.position: error for place in pending}
            outcomes |= {place.position: result for place, result in zip(pending, results, strict=True)}
            pending = [place for place in pending if isinstance(outcomes[place.position], RetryableError)]
            pause_s = self.policy.pause_s(attempt, None)
            if not pending or attempt == self.policy.attempts or clock.monotonic() + pause_s >= until_s:
                break
            logger.debug("items are sent again", extra={"items": len(pending), "attempt": attempt})
            clock.sleep(pause_s)
        return outcomes


def _refusal(item: ImageItem) -> ClipClientError | None:
    """What the service would say to this item. It would say it to the whole batch, hence the check here."""
    try:
        item.check()
    except ValidationFailed as error:
        return error
    return None


def _tell(on_progress: Progress | None, done: int, total: int) -> None:
    if on_progress is not None and total:
        on_progress(done, total)
