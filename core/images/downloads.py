"""The downloads of an image process: many at once, whose turn it is by `core/images/fairness.py`."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from core.byte_budget import ByteBudget
from core.errors import DeadlineExceeded, InternalError, ServiceError
from core.images.fairness import Running, next_download
from core.images.work import Task, or_end_process

logger = logging.getLogger(__name__)

# Beside one download per request, so that one request alone can use its share: see fairness.
LENT_PLACES = 64


class Downloads:
    """Runs as many as `fairness` allows, each on a thread of its own; `fetched` and `failed` are told of the end.

    `fetch`: see `core.images.fetch.fetcher.Fetcher.fetch`.
    """

    def __init__(
        self,
        fetch: Callable[..., bytes],
        budget: ByteBudget,
        *,
        threads: int,
        fetched: Callable[[Task], None],
        failed: Callable[[Task, ServiceError], None],
    ) -> None:
        self._fetch = fetch
        self._budget = budget
        self._fetched = fetched
        self._failed = failed
        self._lock = threading.Lock()
        self._waiting: list[Task] = []
        self._running = Running(LENT_PLACES)
        self._threads = ThreadPoolExecutor(threads)

    def add(self, tasks: list[Task]) -> None:
        """These wait for their downloads."""
        with self._lock:
            self._waiting += tasks
        self._begin()

    def _begin(self) -> None:
        while (task := self._next()) is not None:
            self._threads.submit(or_end_process, self._run, task)

    def _next(self) -> Task | None:
        with self._lock:
            position = next_download([task.download for task in self._waiting], self._running)
            if position is None:
                return None
            task = self._waiting.pop(position)
            self._running.begin(task.download)
            return task

    def _run(self, task: Task) -> None:
        error = self._download(task)
        with self._lock:
            self._running.end(task.download)
        if error is None:
            self._fetched(task)
        else:
            self._failed(task, error)
        self._begin()

    def _download(self, task: Task) -> ServiceError | None:
        began_s = task.download_began_s = time.monotonic()
        deadline = task.part.deadline
        if deadline.expired:
            return DeadlineExceeded()
        try:
            lease = task.held.enter_context(self._budget.lease())
            task.data = self._fetch(task.url, deadline=deadline, reserve=lease.add)
        except ServiceError as error:
            return error
        except Exception:
            # Ours to mend, and no reason to lose the other images.
            logger.exception("an image could not be downloaded")
            return InternalError()
        task.download_ms = (time.monotonic() - began_s) * 1000
        return None
