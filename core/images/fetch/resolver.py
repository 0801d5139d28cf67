"""Names to addresses, a bounded number at once and never beyond the caller's deadline."""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address

from core.deadline import Deadline
from core.errors import DownloadError
from core.images.fetch.addresses import IpAddress
from core.images.fetch.budget import next_wait_s

# Takes a canonical host and a port; raises socket.gaierror when there is no answer.
Resolver = Callable[[str, int], Sequence[IpAddress]]

# EAI_SYSTEM and EAI_MEMORY are this machine's trouble, so the name may well exist.
_TEMPORARY = frozenset({socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY})


def resolve_with_system(host: str, port: int) -> Sequence[IpAddress]:
    """One getaddrinfo, in the order the system prefers."""
    # Bytes, because a str would go through Python's own IDNA codec, which knows another standard.
    answers = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return [ip_address(answer[4][0]) for answer in answers]


class Lookups:
    """Runs a resolver in at most `max_lookups` threads: names behind a silent DNS server hold only those.

    getaddrinfo has no timeout and cannot be interrupted: a lookup that is overdue or abandoned keeps its thread,
    and its place among the `max_lookups`, until it returns; the caller does not wait for it.
    """

    def __init__(self, resolve: Resolver, *, max_lookups: int) -> None:
        self._resolve = resolve
        self._free = threading.BoundedSemaphore(max_lookups)

    def addresses(self, host: str, port: int, ends: Deadline) -> Sequence[IpAddress]:
        """Raises `TimeoutError` at the deadline, `DownloadError` when the name has no address."""
        while not self._free.acquire(timeout=next_wait_s(ends)):
            continue
        answer = self._start(host, port)
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

    def _start(self, host: str, port: int) -> Future[Sequence[IpAddress]]:
        answer: Future[Sequence[IpAddress]] = Future()
        # A daemon: the threads of an executor are joined at exit, and a hung lookup would hold the process.
        thread = threading.Thread(target=self._run, args=(host, port, answer), name="lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._free.release()
            raise DownloadError("no thread could be started for the lookup", retryable=True) from error
        return answer

    def _run(self, host: str, port: int, answer: Future[Sequence[IpAddress]]) -> None:
        try:
            addresses = self._resolve(host, port)
        except Exception as error:  # raised again in the thread that waits
            answer.set_exception(error)
        else:
            answer.set_result(addresses)
        finally:
            self._free.release()


def _wait_for(answer: Future[Sequence[IpAddress]], ends: Deadline) -> None:
    while not answer.done():
        wait_s = next_wait_s(ends)
        # Of this wait alone: what the resolver has raised is returned here.
        with suppress(TimeoutError):
            answer.exception(timeout=wait_s)
