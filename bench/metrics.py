"""What metrics cost a pod's main process: `python -m bench.metrics`, some seconds.

Processor microseconds of each step: what is counted for a request and its items, what a hand-over takes,
and what a scrape. Beside them `python -m bench.host` has what an item costs in all.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from core.answered import Answered
from core.batching.items import Modality
from core.batching.tally import Done, Tally, readings
from core.embedding import Embedding
from core.metrics import Reading
from pod.metrics import Figures, make_folder, remove_folder
from pod.requests import Requests
from shared_auth.contract import EMBED_IMAGE_BATCH

_BATCH = 16
_TIMINGS = {"download_ms": 21.3, "decode_ms": 1.7, "queue_ms": 8.9, "inference_ms": 3.2, "total_ms": 35.1}
_ROUNDS, _CALLS = 5, 2000


class _Device:
    """The figures of one device."""

    def __init__(self) -> None:
        self.done = Done("cuda")

    def readings(self) -> Iterator[Reading]:
        return readings([self.done])


def main() -> None:
    answered, requests, device = Answered(), Requests(), _Device()
    batch = [Embedding(np.ones(512, dtype=np.float32), _TIMINGS)] * _BATCH
    ask = partial(requests.note, EMBED_IMAGE_BATCH, client="default", code="OK", seconds=0.0351)
    run = partial(device.done.note, Modality.IMAGE, Tally(1, _BATCH, 0.003, 0.14))
    make_folder()
    try:
        figures = Figures([answered, requests, device])

        def worked() -> None:
            answered.note(Modality.IMAGE, "default", batch)
            ask()
            run()
            figures.hand_over()

        _show("an item of a batch", partial(answered.note, Modality.IMAGE, "default", batch), per=_BATCH)
        _show("a single item", partial(answered.note, Modality.IMAGE, "default", batch[:1]))
        _show("a request", ask)
        _show("a forward pass", run)
        _show("one hand-over, with work", worked)
        _show("one hand-over, without", figures.hand_over)
        _show("a scrape", figures.exposition, calls=50)
    finally:
        remove_folder()


def _show(what: str, step: Callable[[], object], *, per: int = 1, calls: int = _CALLS) -> None:
    """The best of the rounds: the others had something else in their way."""
    best_s = min(_took_s(step, calls) for _ in range(_ROUNDS))
    print(f"{what:<34}{best_s / calls / per * 1e6:10.2f} microseconds")


def _took_s(step: Callable[[], object], calls: int) -> float:
    began_s = time.process_time()
    for _ in range(calls):
        step()
    return time.process_time() - began_s


if __name__ == "__main__":
    main()
