"""Any number of images through batches: bounded concurrency, results in order, one per item.

A batch that fails as a whole fails for its own items only; what is sent again, or elsewhere, is decided below.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from worker.errors import ClipClientError, ValidationFailed
from worker.operations import EmbedImageBatch
from worker.outcomes import Outcome
from worker.values import Embedding, ImageItem

Progress = Callable[[int, int], object]
Send = Callable[[EmbedImageBatch], list[Outcome]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One image as it is sent, and everyone who asked for it: each item that is equal but for its `request_id`."""

    positions: Sequence[int]
    items: Sequence[ImageItem]

    def outcomes(self, outcome: Outcome) -> dict[int, Outcome]:
        """The outcome of the first item, as that of each."""
        pairs = zip(self.positions, self.items, strict=True)
        return {position: _of_item(outcome, item) for position, item in pairs}


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """`send` returns one outcome per item of a batch, its retries done."""

    send: Send
    batch_size: int
    concurrency: int

    def run(self, items: Sequence[ImageItem], on_progress: Progress | None) -> list[Outcome]:
        """Return one outcome per item, in order. `on_progress(done, total)` is called in this thread.

        An image that is asked for several times is sent once: signed in the same second, equal items have the same
        signature, and a service takes a signature once in a batch.
        """
        outcomes: dict[int, Outcome] = {
            position: error for position, item in enumerate(items) if (error := _refusal(item)) is not None
        }
        asked = [(position, item) for position, item in enumerate(items) if position not in outcomes]
        for finished in self._finished(list(_batches(asked, self.batch_size))):
            outcomes |= finished
            _tell(on_progress, len(outcomes), len(items))
        return [outcomes[position] for position in range(len(items))]

    def _finished(self, batches: Sequence[Sequence[_Wanted]]) -> Iterator[dict[int, Outcome]]:
        """Yield the outcomes of each batch as it ends."""
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="clip-batch")
        futures: list[Future[dict[int, Outcome]]] = [pool.submit(self._run_batch, batch) for batch in batches]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            # On an error of the caller (or Ctrl-C) what has not begun never does.
            pool.shutdown(cancel_futures=True)

    def _run_batch(self, batch: Sequence[_Wanted]) -> dict[int, Outcome]:
        results = self.send(EmbedImageBatch([wanted.items[0] for wanted in batch]))
        outcomes: dict[int, Outcome] = {}
        for wanted, result in zip(batch, results, strict=True):
            outcomes |= wanted.outcomes(result)
        return outcomes


def _batches(asked: Sequence[tuple[int, ImageItem]], batch_size: int) -> Iterator[list[_Wanted]]:
    """Yield batches in which no URL stands twice: what is signed does not tell normalised from not."""
    same = defaultdict[tuple[str, bool], list[tuple[int, ImageItem]]](list)
    for position, item in asked:
        same[item.url, item.normalize].append((position, item))
    once, again, urls = list[_Wanted](), list[_Wanted](), set[str]()
    for (url, _), pairs in same.items():
        (again if url in urls else once).append(_Wanted(*zip(*pairs, strict=True)))
        urls.add(url)
    for wanted in (once, again):
        for start in range(0, len(wanted), batch_size):
            yield wanted[start : start + batch_size]


def _of_item(outcome: Outcome, item: ImageItem) -> Outcome:
    """The outcome with the item's own `request_id`, and a vector of its own, which a caller may change."""
    if outcome.request_id == item.request_id:
        return outcome
    if isinstance(outcome, Embedding):
        return replace(outcome, request_id=item.request_id, vector=outcome.vector.copy())
    error = copy.copy(outcome)
    error.request_id = item.request_id
    return error


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
