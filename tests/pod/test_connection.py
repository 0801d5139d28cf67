"""A connection's turns, and its patience, without a server."""

import gevent
import pytest
from gevent import socket

from pod.connection import Connection, Turns, Waiting

SOON_S = 30.0
# They fit into the buffer of a socket, and take many turns.
READS = 50_000


def pair(turns: Turns, *, send_timeout_s: float = SOON_S) -> tuple[Connection, socket.socket]:
    """The pod's side of a connection, and the client's."""
    ours, theirs = socket.socketpair()
    return Connection(ours, turns, send_timeout_s=send_timeout_s), theirs


def test_whoever_always_has_something_to_read_lets_others_run() -> None:
    """Bytes that are all there already are read in turns: another greenlet runs long before their end."""
    seen: list[str] = []
    ours, theirs = pair(Turns())

    def read() -> None:
        for _ in range(READS):
            ours.recv(1)
            seen.append("read")

    with ours, theirs:
        theirs.sendall(b"x" * READS)
        reader, other = gevent.spawn(read), gevent.spawn(seen.append, "other")
        for one in (reader, other):
            one.get(timeout=SOON_S)

    assert "other" in seen[:READS]


def test_turns_are_given_in_the_order_of_coming() -> None:
    """Whoever has just had a turn comes after all who wait for theirs."""
    turns = Turns()
    order: list[str] = []

    def take(name: str) -> None:
        for _ in range(3):
            turns.wait()
            order.append(name)

    gevent.joinall([gevent.spawn(take, name) for name in "abc"], timeout=SOON_S, raise_error=True)

    assert list("abcabcabc") == order


def test_turn_of_one_who_has_gone_is_handed_on() -> None:
    """A greenlet that ends while it waits does not hold up those behind it."""
    turns = Turns()
    first, second, third = (gevent.spawn(turns.wait) for _ in range(3))
    gevent.idle()
    second.kill()
    gevent.joinall([first, third], timeout=SOON_S, raise_error=True)

    assert (True, True) == (first.successful(), third.successful())


def test_answer_that_nobody_takes_is_given_up() -> None:
    """What does not fit into the kernel's buffers waits for the client for a limited time."""
    ours, theirs = pair(Turns(), send_timeout_s=0.05)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ours, theirs, pytest.raises(ConnectionResetError, match="does not read"):
        ours.sendall(b"x" * 16_384)


def test_answer_that_is_taken_arrives_whole() -> None:
    """A large answer to a client that reads is sent to its end."""
    ours, theirs = pair(Turns())
    with ours, theirs:
        sender = gevent.spawn(ours.sendall, b"x" * 2_000_000)
        received = 0
        while received < 2_000_000:
            received += len(theirs.recv(1_000_000))
        sender.join(SOON_S)

    assert sender.successful()


def test_longest_waiting_is_ended() -> None:
    """Of those that have sent nothing: what has just come belongs to a request."""
    waiting = Waiting()
    pairs = [pair(Turns()) for _ in range(4)]
    try:
        for ours, _ in pairs:
            waiting.add(ours)
        waiting.discard(pairs[0][0])
        pairs[1][1].sendall(b"GET")
        ended = waiting.end_longest()
        waiting.add(pairs[0][0])

        with gevent.Timeout(SOON_S):
            assert (True, b"") == (ended, pairs[2][0].recv(1))
            assert [True, True, False] == [waiting.end_longest() for _ in range(3)]
            assert [b"", b"GET", b"", b""] == [ours.recv(3) for ours, _ in pairs]
    finally:
        for both in pairs:
            for one in both:
                one.close()
