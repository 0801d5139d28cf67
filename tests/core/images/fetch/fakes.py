"""Fakes that are passed in: names that resolve as told, and connections that are led to a local server."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address

from core.deadline import Deadline
from core.images.fetch.addresses import IpAddress
from core.images.fetch.allowlist import AllowList
from core.images.fetch.fetcher import Fetcher, FetchLimits
from core.images.fetch.resolver import Resolver
from core.images.fetch.sockets import Connect, connect_to

PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "2606:4700::1111"
LOOPBACK = IPv4Address("127.0.0.1")

LIMITS = FetchLimits(max_bytes=1_000_000, timeout_s=10)


class Names:
    """Resolves each name to its answers in turn, the last one for ever; remembers what was asked."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(turns) for name, turns in answers.items()}
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[IpAddress]:
        self.asked.append((host, port))
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        turns = self._answers[host]
        return [ip_address(answer) for answer in (turns.pop(0) if len(turns) > 1 else turns[0])]


class Wires:
    """Connects to a local server whatever the address, unless it is `dead`; remembers the addresses."""

    def __init__(self, port: int, *, dead: Sequence[str] = ()) -> None:
        self._port = port
        self._dead = {ip_address(address) for address in dead}
        self.addresses: list[str] = []

    def __call__(self, address: IpAddress, port: int, ends: Deadline) -> socket.socket:
        self.addresses.append(str(address))
        if address in self._dead:
            raise ConnectionRefusedError(port)
        return connect_to(LOOPBACK, self._port, ends)


def no_names(host: str, port: int) -> list[IpAddress]:
    raise AssertionError("no name may be looked up here")


def no_wires(address: IpAddress, port: int, ends: Deadline) -> socket.socket:
    raise AssertionError("no connection may be made here")


@contextmanager
def fetching(
    allow: str = "127.0.0.1",
    *,
    limits: FetchLimits = LIMITS,
    resolve: Resolver = no_names,
    connect: Connect = connect_to,
    max_lookups: int = 4,
    ca_file: str | None = None,
) -> Iterator[Fetcher]:
    """A fetcher that is closed at the end of the block."""
    fetcher = Fetcher(
        limits,
        AllowList.parse(allow),
        resolve=resolve,
        connect=connect,
        max_lookups=max_lookups,
        ca_file=ca_file,
    )
    try:
        yield fetcher
    finally:
        fetcher.close()


def soon() -> Deadline:
    """A deadline that no test means to reach."""
    return Deadline.after(20)
