"""Who waits for whom when decoder and device share their cores, and that nobody does when they do not."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from core.batching.turns import Arrivals, Turns

SOON_S = 30.0
# Long enough that whoever could go on would have.
A_WHILE_S = 0.1

Turn = Callable[[], AbstractContextManager[None]]


def full() -> bool:
    return True


def empty() -> bool:
    return False


class Stay:
    """Holds a turn on a thread of its own until it is left."""

    def __init__(self, threads: ThreadPoolExecutor, turn: Turn) -> None:
        self._turn = turn
        self._inside = threading.Event()
        self._leave = threading.Event()
        self._done: Future[None] = threads.submit(self._run)

    def _run(self) -> None:
        with self._turn():
            self._inside.set()
            self._leave.wait(SOON_S)

    def begins(self) -> bool:
        return self._inside.wait(SOON_S)

    def waits(self) -> bool:
        return not self._inside.wait(A_WHILE_S)

    def leave(self) -> None:
        self._leave.set()
        self._done.result(SOON_S)


Begin = Callable[[Turn], Stay]


@pytest.fixture
def begin() -> Iterator[Begin]:
    stays: list[Stay] = []
    with ThreadPoolExecutor(8) as threads:

        def stay(turn: Turn) -> Stay:
            stays.append(Stay(threads, turn))
            return stays[-1]

        yield stay
        for one in stays:
            one.leave()


def pass_waits_for(event: Callable[[], None], turns: Turns, begin: Begin) -> bool:
    """Whether a pass with room in its batch begins after `event`, and not before."""
    passing = begin(lambda: turns.computing(empty))
    waited = passing.waits()
    event()
    return passing.begins() and waited


@pytest.fixture
def turns() -> Turns:
    """Shared cores, and a pass that waits as long as it takes."""
    return Turns(shared=True, patience_s=SOON_S)


def test_decode_waits_for_the_pass_that_runs(turns: Turns, begin: Begin) -> None:
    """It begins when the pass has ended."""
    passing = begin(lambda: turns.computing(full))
    assert passing.begins()
    turns.announce()
    decode = begin(turns.decoding)
    waited = decode.waits()
    passing.leave()

    assert waited
    assert decode.begins()


def test_pass_waits_for_the_decodes_that_run(turns: Turns, begin: Begin) -> None:
    """Decodes run side by side; the pass begins after the last."""
    decodes = [begin(turns.decoding) for _ in range(2)]
    assert all(decode.begins() for decode in decodes)
    passing = begin(lambda: turns.computing(full))
    decodes[0].leave()
    waited = passing.waits()
    decodes[1].leave()

    assert waited
    assert passing.begins()


def test_images_are_decoded_before_a_pass_until_its_batch_is_full(turns: Turns, begin: Begin) -> None:
    """Of three that are announced, two fill the batch; the third waits for the pass."""
    queue: list[str] = []
    for _ in range(3):
        turns.announce()
    passing = begin(lambda: turns.computing(lambda: len(queue) >= 2))
    waited = passing.waits()
    for _ in range(2):
        decode = begin(turns.decoding)
        assert decode.begins()
        decode.leave()
        queue.append("image")
        turns.retract()

    assert waited
    assert passing.begins()
    assert begin(turns.decoding).waits()


def test_pass_goes_on_when_an_announced_image_will_not_come(turns: Turns, begin: Begin) -> None:
    """One that was given up is not waited for."""
    turns.announce()

    assert pass_waits_for(turns.retract, turns, begin)


def test_slow_decode_does_not_hold_up_the_device(begin: Begin) -> None:
    """A pass that has waited long enough begins beside it."""
    turns = Turns(shared=True, patience_s=0.01)
    slow = begin(turns.decoding)
    assert slow.begins()

    assert begin(lambda: turns.computing(empty)).begins()


def test_end_frees_whoever_waits(turns: Turns, begin: Begin) -> None:
    """A pass that never ends holds nobody back once the device is given up."""
    assert begin(lambda: turns.computing(full)).begins()
    decode = begin(turns.decoding)
    waited = decode.waits()
    turns.end()

    assert waited
    assert decode.begins()


def test_nobody_waits_where_cores_are_not_shared(begin: Begin) -> None:
    """A pass on a GPU runs beside decodes."""
    turns = Turns(shared=False)
    turns.announce()

    assert begin(lambda: turns.computing(empty)).begins()
    assert begin(turns.decoding).begins()
    assert begin(lambda: turns.computing(empty)).begins()


def counted_out(turns: Turns, begin: Begin) -> bool:
    """Whether a pass with room in its batch waits for nothing."""
    return begin(lambda: turns.computing(empty)).begins()


def test_last_image_of_a_request_is_waited_for_until_it_is_queued(turns: Turns, begin: Begin) -> None:
    """Between decoder and queue the request would otherwise miss the pass that was waiting for it."""
    arrivals = Arrivals(turns, 2)
    for _ in range(2):
        arrivals.announce()
        arrivals.decoded()

    assert pass_waits_for(arrivals.queued, turns, begin)


def test_request_that_still_downloads_is_not_waited_for(turns: Turns, begin: Begin) -> None:
    """Its decoded images wait for a slow server; a pass does not."""
    arrivals = Arrivals(turns, 2)
    arrivals.announce()
    arrivals.decoded()

    assert counted_out(turns, begin)


def test_failed_download_leaves_the_last_place_to_another_image(turns: Turns, begin: Begin) -> None:
    """Of two images one cannot be had: the other one is the last."""
    arrivals = Arrivals(turns, 2)
    with pytest.raises(ZeroDivisionError), arrivals.downloading():
        raise ZeroDivisionError
    arrivals.announce()
    arrivals.decoded()

    assert pass_waits_for(arrivals.queued, turns, begin)


def test_decode_that_ends_after_its_request_is_counted_out(turns: Turns, begin: Begin) -> None:
    """A request that ran out of time is over before its decoder is."""
    arrivals = Arrivals(turns, 1)
    arrivals.announce()
    arrivals.queued()
    arrivals.decoded()

    assert counted_out(turns, begin)
