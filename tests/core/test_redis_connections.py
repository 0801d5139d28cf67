"""Connections to a Redis by its name: what is behind it costs no more than an answer, and TLS still asks for it."""

import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from core.redis_connections import open_pool
from tests.core.images.fetch.certificates import make_certificates
from tests.core.no_redis import SOON_S, Drip, answering, listening

NAME = "cache.test"


class Names:
    """The system's lookups, but that of `NAME` is answered with `addresses`, and hangs while there are none."""

    def __init__(self) -> None:
        self.addresses: Sequence[str] = ()
        self.asked: list[str] = []
        self._known = threading.Event()
        self._system = socket.getaddrinfo

    def know(self, *addresses: str) -> None:
        self.addresses = addresses
        self._known.set()

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the system's
        self.asked.append(host)
        if host != NAME:
            return self._system(host, port, *args, **kwargs)
        assert self._known.wait(SOON_S)
        return [answer for address in self.addresses for answer in self._system(address, port, *args, **kwargs)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.know()


def named(address: str, timeout_s: float) -> ConnectionPool:
    return open_pool(address.replace("127.0.0.1", NAME), timeout_s=timeout_s, max_answer_bytes=1000)


def connect(pool: ConnectionPool) -> type[Exception] | None:
    """What it ends with."""
    connection: Any = pool.make_connection()
    try:
        connection.connect()
    except Exception as error:
        return type(error)
    else:
        return None
    finally:
        connection.disconnect()


def test_lookup_that_hangs_is_a_timeout(names: Names) -> None:
    """As a server that hangs; all who come meanwhile wait for one lookup. Afterwards the name is asked for anew."""
    with answering(Drip(b"", gap_s=0)) as address:
        pool = named(address, timeout_s=0.2)
        with ThreadPoolExecutor(8) as threads:
            during = list(threads.map(connect, [pool] * 24, timeout=SOON_S))
        hung = names.asked.count(NAME)
        names.know("127.0.0.1")
        patient = named(address, timeout_s=SOON_S)
        afterwards = [connect(patient), connect(patient)]

    assert [RedisTimeoutError] * 24 == during
    assert 1 == hung
    assert [None, None] == afterwards
    assert 3 == names.asked.count(NAME)


def test_next_address_is_tried(names: Names) -> None:
    """Where the first one refuses."""
    names.know("127.0.0.2", "127.0.0.1")
    with answering(Drip(b"", gap_s=0)) as address:
        assert connect(named(address, timeout_s=SOON_S)) is None

    assert [NAME, "127.0.0.2", "127.0.0.1"] == names.asked


def test_all_addresses_refuse(names: Names) -> None:
    """The error is the library's for that, and it names the server as it was given."""
    names.know("127.0.0.2", "127.0.0.3")
    with answering(Drip(b"", gap_s=0)) as address:
        connection: Any = named(address, timeout_s=SOON_S).make_connection()
        with pytest.raises(RedisConnectionError, match=NAME):
            connection.connect()


def test_many_silent_addresses_cost_as_much_as_one(names: Names) -> None:
    """Time is for all of them: a queue of connections that is full lets each one wait."""
    names.know(*["127.0.0.1"] * 200)
    with listening(backlog=0) as (address, server), ExitStack() as waiting:
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        ended = connect(named(address, timeout_s=0.2))

    assert ended is RedisTimeoutError
    assert len(names.asked) < 10


def test_tls_asks_for_the_name(names: Names, tmp_path: Path) -> None:
    """The certificate is that of the name, not of the number behind it."""
    certificates = make_certificates(tmp_path, name=NAME, address="192.0.2.1")
    asked_for: list[str | None] = []
    certificates.server.set_servername_callback(lambda _, name, __: asked_for.append(name))
    names.know("127.0.0.1")

    def greet(connection: socket.socket) -> None:
        with certificates.server.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as secure:
            Drip(b"", gap_s=0)(secure)

    with answering(greet) as address:
        secure = f"{address.replace('redis', 'rediss')}?ssl_ca_certs={certificates.authority_file}"
        ended = connect(named(secure, timeout_s=SOON_S))

    assert ended is None
    assert [NAME] == asked_for
