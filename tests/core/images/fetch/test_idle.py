"""Connections that wait for another image: for so long, and so many."""

from dataclasses import dataclass
from typing import cast

from core.images.fetch.connection import CheckedConnection
from core.images.fetch.idle import MAX_IDLE_S, IdleConnections

ORIGIN = ("http", "example.com", 80)


@dataclass(slots=True)
class Connection:
    """Stands for a connection to ORIGIN whose server says nothing."""

    origin: tuple[str, str, int] = ORIGIN
    closed: bool = False

    def has_something(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def put(idle: IdleConnections) -> Connection:
    connection = Connection()
    idle.put(cast("CheckedConnection", connection))
    return connection


def test_connection_is_kept_for_a_while() -> None:
    """One second before the limit it is taken again, one second after it is closed: a NAT may have forgotten it."""
    now_s = [0.0]
    idle = IdleConnections(max_connections=2, clock=lambda: now_s[0])
    kept = put(idle)
    now_s[0] = MAX_IDLE_S - 1
    assert idle.take(ORIGIN) is cast("CheckedConnection", kept)

    old = put(idle)
    now_s[0] += MAX_IDLE_S + 1

    assert idle.take(ORIGIN) is None
    assert old.closed


def test_oldest_connection_goes_when_there_are_too_many() -> None:
    """The latest is the one that its server has least reason to close."""
    idle = IdleConnections(max_connections=2)
    connections = [put(idle) for _ in range(3)]

    assert [True, False, False] == [connection.closed for connection in connections]
    assert idle.take(ORIGIN) is cast("CheckedConnection", connections[2])


def test_connection_of_another_server_is_not_taken() -> None:
    """Scheme, host and port belong together."""
    idle = IdleConnections(max_connections=2)
    put(idle)

    assert idle.take(("https", "example.com", 80)) is None
    assert idle.take(("http", "example.org", 80)) is None
