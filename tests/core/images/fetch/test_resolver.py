"""Names that have no address."""

import socket
import threading

import pytest

from core.deadline import Deadline
from core.errors import DownloadError
from core.images.fetch.addresses import IpAddress
from core.images.fetch.resolver import Lookups, resolve_with_system
from tests.core.images.fetch.fakes import LOOPBACK, fetching, no_wires, soon


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        pytest.param(socket.EAI_NONAME, False, id="no-such-name"),
        pytest.param(socket.EAI_FAIL, False, id="final"),
        pytest.param(socket.EAI_AGAIN, True, id="temporary"),
        pytest.param(socket.EAI_MEMORY, True, id="memory"),
    ],
)
def test_failed_lookup(code: int, retryable: bool) -> None:
    """A name that does not exist is final, a temporary failure is not; the message names no name."""

    def resolve(host: str, port: int) -> list[IpAddress]:
        raise socket.gaierror(code, "secret detail")

    with fetching("", resolve=resolve, connect=no_wires) as fetcher, pytest.raises(DownloadError) as caught:
        fetcher.fetch("http://name.test/", deadline=soon())

    assert (caught.value.message, caught.value.retryable) == (
        "the name of the image's host cannot be resolved",
        retryable,
    )


@pytest.mark.parametrize(
    "failure", [pytest.param(OSError("secret"), id="os"), pytest.param(UnicodeError("secret"), id="unicode")]
)
def test_odd_failures_of_a_resolver(failure: Exception) -> None:
    """Whatever a lookup fails with becomes an error of ours."""

    def resolve(host: str, port: int) -> list[IpAddress]:
        raise failure

    with fetching("", resolve=resolve, connect=no_wires) as fetcher, pytest.raises(DownloadError) as caught:
        fetcher.fetch("http://name.test/", deadline=soon())

    assert "secret" not in caught.value.message


def test_timeout_of_a_resolver() -> None:
    """It is the lookup's end, and not taken for the end of one wait for it."""

    def resolve(host: str, port: int) -> list[IpAddress]:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        Lookups(resolve, max_lookups=1).addresses("name.test", 80, Deadline.after(2))


def test_no_addresses() -> None:
    """An empty answer is an error: "all of none are public" must not let it pass."""
    with (
        fetching("", resolve=lambda host, port: [], connect=no_wires) as fetcher,
        pytest.raises(DownloadError, match="has no address"),
    ):
        fetcher.fetch("http://name.test/", deadline=soon())


def test_thread_is_named_and_does_not_hold_the_process() -> None:
    """A lookup runs in a daemon thread, so a hung one does not keep the process from ending."""
    threads = []

    def resolve(host: str, port: int) -> list[IpAddress]:
        threads.append(threading.current_thread())
        return [LOOPBACK]

    Lookups(resolve, max_lookups=1).addresses("name.test", 80, soon())

    assert [thread.daemon for thread in threads] == [True]


def test_system_resolver() -> None:
    """The default resolver reads the system's names."""
    assert LOOPBACK in resolve_with_system("localhost", 80)


def test_places_are_given_back() -> None:
    """As many lookups can follow each other as one likes, failed ones included."""

    def resolve(host: str, port: int) -> list[IpAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    lookups = Lookups(resolve, max_lookups=1)
    for _ in range(3):
        with pytest.raises(DownloadError):
            lookups.addresses("name.test", 80, Deadline.after(10))
