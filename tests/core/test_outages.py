"""Who asks a store that is away, and which answers end or begin an outage."""

from core.outages import ASK_AGAIN_S, Outages


class ScriptedClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_one_request_a_second_asks_a_store_that_is_away() -> None:
    """The others do not wait for its timeout."""
    clock = ScriptedClock()
    outages = Outages(clock)
    ticket = outages.begin()
    assert ticket is not None
    assert outages.failed(ticket)

    asked = []
    for _ in range(8):
        clock.now_s += ASK_AGAIN_S / 4
        asked.append(outages.begin() is not None)

    assert [False, False, False, True, False, False, False, True] == asked


def test_answers_from_before_an_outage_do_not_end_it() -> None:
    """Of requests that asked at the same time one may fail first and one be answered late: that is no return."""
    clock = ScriptedClock()
    outages = Outages(clock)
    early, late = outages.begin(), outages.begin()
    assert early is not None
    assert late is not None

    assert outages.failed(early)
    assert outages.answered(late) is None
    assert outages.begin() is None


def test_failures_from_before_a_return_begin_no_outage() -> None:
    """A question that was asked before the store came back, and times out after it, tells nothing new."""
    clock = ScriptedClock()
    outages = Outages(clock)
    first, slow = outages.begin(), outages.begin()
    assert first is not None
    assert slow is not None
    outages.failed(first)
    clock.now_s += ASK_AGAIN_S
    again = outages.begin()
    assert again is not None

    assert ASK_AGAIN_S == outages.answered(again)
    assert not outages.failed(slow)
    assert outages.begin() is not None
