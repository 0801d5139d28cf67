"""Any number of images through batches: bounded concurrency, results in order, one per item.

A batch that fails as a whole fails for its own items only; what is sent again, or elsewhere, is decided below.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from worker.errors import ClipClientError, ValidationFailed
from worker.operations import EmbedImageBatch
from worker.outcomes import Outcome
from worker.values import ImageItem

Progress = Callable[[int, int], object]
Send = Callable[[EmbedImageBatch], list[Outcome]]


@dataclass(frozen=True, slots=True)
class _Place:
    """An item and where its result belongs."""

    position: int
    item: ImageItem


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """`send` returns one outcome per item of a batch, its retries done."""

    send: Send
    batch_size: int
    concurrency: int

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
        results = self.send(EmbedImageBatch([place.item for place in places]))
        return {place.position: result for place, result in zip(places, results, strict=True)}


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
