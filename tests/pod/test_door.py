"""The door of a worker that has siblings: two servers over one listener, as two workers have it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import gevent
import pytest
from gevent import socket
from gevent.pool import Pool

from pod.gevent_worker import SweepingServer

SOON_S = 30.0


class Worker:
    """Answers with its name, and closes; `accepts` is what it is told of itself and the others."""

    def __init__(self, name: bytes, listener: socket.socket, most: int = 10) -> None:
        self.accepts = True
        self.name = name
        self.server = SweepingServer(
            listener.dup(),
            accepts=lambda: self.accepts,
            make_room=lambda: None,
            handle=self._answer,
            spawn=Pool(most),
        )

    def _answer(self, client: socket.socket, _address: object) -> None:
        with closing(client):
            client.sendall(self.name)


@contextmanager
def two(first_accepts: bool, second_accepts: bool) -> Iterator[tuple[Worker, Worker, tuple[str, int]]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        first, second = Worker(b"first", listener), Worker(b"second", listener)
        first.accepts, second.accepts = first_accepts, second_accepts
        for worker in (first, second):
            worker.server.start()
        try:
            yield first, second, listener.getsockname()
        finally:
            for worker in (first, second):
                worker.accepts = False
                worker.server.close()


def ask(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=SOON_S) as client:
        return bytes(client.recv(100))


def test_whoever_does_not_accept_leaves_all_to_the_other() -> None:
    """From the first connection on, before anybody has looked."""
    with two(first_accepts=False, second_accepts=True) as (_, _, address):
        assert {b"second"} == {ask(address) for _ in range(50)}


def test_door_shuts_with_the_next_connection() -> None:
    """A worker that had opened takes nobody any more once it should not, also between two looks."""
    with two(first_accepts=True, second_accepts=False) as (first, second, address):
        before = ask(address)
        first.accepts, second.accepts = False, True
        second.server.look()

        assert (b"first", {b"second"}) == (before, {ask(address) for _ in range(50)})


def test_whoever_waits_at_a_shut_door_is_taken_when_one_opens() -> None:
    """Nobody is refused meanwhile: the connection is in the kernel's queue."""
    with two(first_accepts=False, second_accepts=False) as (first, _, address):
        asking = gevent.spawn(ask, address)
        gevent.sleep(0)
        first.accepts = True
        first.server.look()

        assert b"first" == asking.get(timeout=SOON_S)


@pytest.mark.parametrize(
    ("accepts", "expected"),
    [pytest.param(True, b"first", id="nobody else will"), pytest.param(False, b"second", id="another one will")],
)
def test_end_sweeps_only_what_nobody_else_takes(*, accepts: bool, expected: bytes) -> None:
    """Whoever has connected and is not accepted yet is answered by the one that ends, or left to the other."""
    with (
        two(first_accepts=False, second_accepts=False) as (first, second, address),
        socket.create_connection(address, timeout=SOON_S) as client,
    ):
        first.accepts = accepts
        first.server.close()
        second.accepts = True
        second.server.look()

        assert expected == client.recv(100)
