"""Names to addresses, a bounded number at once and never beyond the caller's deadline."""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from weakref import WeakValueDictionary

from core.deadline import Deadline
from core.errors import DownloadError
from core.images.fetch.addresses import IpAddress
from core.images.fetch.budget import next_wait_s
from core.images.fetch.hosts import site_of

# Takes a canonical host and a port; raises socket.gaierror when there is no answer.
Resolver = Callable[[str, int], Sequence[IpAddress]]

# EAI_SYSTEM and EAI_MEMORY are this machine's trouble, so the name may well exist.
_TEMPORARY = frozenset({socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY})

# Each download has at most one that it waits for, and fairness says how many those are: 128, unless more requests may
# run than usual. The others are for what was left behind. A thread each, hung ones of 20 kB; over it DOWNLOAD_TIMEOUT.
MAX_LOOKUPS = 192

# One site gets a part in so many: a wildcard before a silent server is as many names as one likes.
_SITES = 8


def resolve_with_system(host: str, port: int) -> Sequence[IpAddress]:
    """One getaddrinfo, in the order the system prefers."""
    # Bytes, because a str would go through Python's own IDNA codec, which knows another standard.
    answers = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return [ip_address(answer[4][0]) for answer in answers]


class Lookups:
    """Runs a resolver in at most `max_lookups` threads, a part of them for names of one site: names behind a silent DNS
    server hold only those.

    getaddrinfo has no timeout and cannot be interrupted: a lookup that is overdue or abandoned keeps its thread,
    and its place among the `max_lookups`, until it returns; the caller does not wait for it.
    """

    def __init__(self, resolve: Resolver, *, max_lookups: int) -> None:
        self._resolve = resolve
        self._free = threading.BoundedSemaphore(max_lookups)
        self._max_of_site = max(1, max_lookups // _SITES)
        self._lock = threading.Lock()
        # Of sites that are asked for: whoever holds a place or waits for one keeps them.
        self._free_of_sites: WeakValueDictionary[str, threading.BoundedSemaphore] = WeakValueDictionary()

    def addresses(self, host: str, port: int, ends: Deadline) -> Sequence[IpAddress]:
        """Raises `TimeoutError` at the deadline, `DownloadError` when the name has no address."""
        answer = self._start(host, port, self._take_place(host, ends))
        _wait_for(answer, ends)
        try:
            addresses = answer.result()
        except socket.gaierror as error:
            message = "the name of the image's host cannot be resolved"
            raise DownloadError(message, retryable=error.errno in _TEMPORARY) from error
        except ValueError as error:  # of ip_address, or of the system's own codec for names
            raise DownloadError("the name of the image's host cannot be resolved") from error
        if not addresses:
            raise DownloadError("the name of the image's host has no address")
        return addresses

    def _take_place(self, host: str, ends: Deadline) -> ExitStack:
        """Of the site first: who waits for that keeps none from others. Raises `TimeoutError`."""
        with ExitStack() as place:
            for free in (self._free_of(site_of(host)), self._free):
                while not free.acquire(timeout=next_wait_s(ends)):
                    continue
                place.callback(free.release)
            return place.pop_all()

    def _free_of(self, site: str) -> threading.BoundedSemaphore:
        with self._lock:
            return self._free_of_sites.setdefault(site, threading.BoundedSemaphore(self._max_of_site))

    def _start(self, host: str, port: int, place: ExitStack) -> Future[Sequence[IpAddress]]:
        answer: Future[Sequence[IpAddress]] = Future()
        # A daemon: the threads of an executor are joined at exit, and a hung lookup would hold the process.
        thread = threading.Thread(target=self._run, args=(host, port, answer, place), name="lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            place.close()
            raise DownloadError("no thread could be started for the lookup", retryable=True) from error
        return answer

    def _run(self, host: str, port: int, answer: Future[Sequence[IpAddress]], place: ExitStack) -> None:
        with place:
            try:
                addresses = self._resolve(host, port)
            except Exception as error:  # raised again in the thread that waits
                answer.set_exception(error)
            else:
                answer.set_result(addresses)


def _wait_for(answer: Future[Sequence[IpAddress]], ends: Deadline) -> None:
    while not answer.done():
        wait_s = next_wait_s(ends)
        # Of this wait alone: what the resolver has raised is returned here.
        with suppress(TimeoutError):
            answer.exception(timeout=wait_s)
