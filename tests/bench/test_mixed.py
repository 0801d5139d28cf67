"""Images and texts at once: shares, percentiles, goals."""

from bench import mixed, slow_host
from bench.lines import Line
from bench.trees import THIS


def _row(images: float, text_ms: tuple[float, ...] = (), failed: int = 0) -> mixed.Mixed:
    return mixed.Mixed(images, float(len(text_ms)), 2.0, 3.0, failed, text_ms)


def _lines(shares: dict[int, float], p99_ms: float, failed: float = 0.0) -> list[Line]:
    return [
        Line(
            mixed.name_of(size, clients),
            THIS.label,
            {mixed.SHARE: share, mixed.P99: p99_ms, mixed.FAILED: failed},
        )
        for size in mixed.SIZES
        for clients, share in shares.items()
    ]


def test_images_stand_beside_images_alone() -> None:
    """The share is of the rate that the same images have without texts."""
    figures = _row(30.0, (10.0, 20.0, 30.0)).figures(_row(60.0))

    assert (15.0, 0.5, 1.5, 20.0) == tuple(
        figures[name] for name in (mixed.IMAGES, mixed.SHARE, mixed.TEXTS, mixed.P50)
    )


def test_without_texts_there_are_no_percentiles() -> None:
    """A row of images alone has no latency of texts, and is all of itself."""
    alone = _row(60.0)

    assert (1.0, None) == (alone.figures(alone)[mixed.SHARE], alone.figures(alone)[mixed.P99])


def test_images_that_were_starved_are_a_zero() -> None:
    """No image at all beside texts is the worst share, not a missing one."""
    assert _row(0.0, (10.0,)).figures(_row(60.0))[mixed.SHARE] == 0.0


def test_rounds_are_one_row() -> None:
    """Rates are of all rounds together, and so are percentiles and failures."""
    both = _row(30.0, (10.0,), failed=1) + _row(10.0, (30.0,))

    assert (10.0, 2, 1) == (both.images_per_s, len(both.text_ms), both.failed)


def test_each_goal_goes_by_its_row() -> None:
    """Shares hold at their limits; a text may wait two image passes long beside one client's searches."""
    met = [check.met for check in mixed.checks(_lines({1: 0.85, 4: 0.49, 16: 0.34}, p99_ms=300.0), 150)]
    late = [check.met for check in mixed.checks(_lines({1: 0.85}, p99_ms=301.0), 150)]

    assert [True, False, True, True] * 2 == met
    assert [True, None, None, False] * 2 == late


def test_failed_requests_meet_no_goal() -> None:
    """Images that were refused leave room for texts, and that is no merit."""
    failing = mixed.checks(_lines({1: 1.0, 4: 1.0, 16: 1.0}, p99_ms=1.0, failed=2.0), 150)

    assert {False} == {check.met for check in failing}


def test_between_two_moments_is_what_came_meanwhile() -> None:
    """Counters of a pod are subtracted, and so are the clock and the processor time."""
    between = mixed.Mixed(50.0, 9.0, 105.0, pod_s=8.0) - mixed.Mixed(20.0, 4.0, 100.0, pod_s=2.0)

    assert (30.0, 5.0, 5.0, 6.0) == (between.images, between.texts, between.elapsed_s, between.pod_s)
    assert between.figures(between)[mixed.CORES] == 1.2


def test_a_stall_counts_for_as_long_as_it_lasts() -> None:
    """Of 100 quick requests and one that took longer than all of them, the usual moment is a stalled one."""
    assert slow_host.median_over_time([*[10.0] * 100, 1001.0]) == 1001.0
    assert slow_host.median_over_time([*[10.0] * 100, 999.0]) == 10.0


def test_quick_images_may_take_twice_as_long_beside_a_slow_host() -> None:
    """The goal is about the median beside the slow host over the one alone."""
    lines = [Line(slow_host.ALONE, THIS.label, {slow_host.WAIT: 10.0, slow_host.FAILED: 0.0})]
    beside = [
        Line(slow_host.BESIDE, THIS.label, {slow_host.WAIT: wait, slow_host.FAILED: 0.0}) for wait in (20.0, 21.0)
    ]

    assert [True, False] == [slow_host.checks([*lines, line])[0].met for line in beside]
    assert slow_host.checks(lines)[0].met is None
