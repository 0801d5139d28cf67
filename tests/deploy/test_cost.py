"""The cost formula of docs/deploy.md, on numbers that can be checked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.cost import DAY_S, Rates, draw, main

# One image a second; a pod and a second of serverless are priced so that a day of either is easy to see.
PLAIN = Rates(
    images_per_s=1.0,
    pod_per_hour=1.0,
    serverless_per_s=0.001,
    utilisation=1.0,
    peak=1.0,
    bursts_per_day=0.0,
)


def test_break_even_is_where_both_cost_the_same() -> None:
    """24 an hourly price buys 24,000 seconds at a thousandth."""
    assert 24_000 == PLAIN.break_even()
    assert PLAIN.pod_cost(24_000) == pytest.approx(PLAIN.serverless_cost(24_000))


def test_bursts_move_the_break_even_down() -> None:
    """Every burst pays for a start and an idle time, which a pod does not."""
    rates = replace(PLAIN, bursts_per_day=10, cold_start_s=20, idle_timeout_s=80)

    assert 23_000 == rates.break_even()


def test_no_break_even_when_a_pod_is_full_before() -> None:
    """With a price of serverless below the pod's there is nothing to win."""
    assert replace(PLAIN, serverless_per_s=0.0001).break_even() is None


def test_pods_are_counted_by_the_busiest_hour() -> None:
    """Twice the average rate needs twice the pods."""
    assert 1 == PLAIN.pods(DAY_S)
    assert 2 == PLAIN.pods(DAY_S + 1)
    assert 2 == replace(PLAIN, peak=2.0).pods(DAY_S)


def test_idle_serverless_costs_nothing() -> None:
    """Zero workers are the point of it."""
    assert 0 == replace(PLAIN, bursts_per_day=24).serverless_cost(0)


def test_command_prints_the_break_even(capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers that docs/deploy.md quotes."""
    main(["--images-per-s", "30", "--pod-per-hour", "0.30", "--serverless-per-s", "0.0002"])

    assert "a pod is cheaper above 715,680 images a day" in capsys.readouterr().out


def test_picture_is_a_png(tmp_path: Path) -> None:
    """Drawn without a display."""
    pytest.importorskip("matplotlib")
    draw(PLAIN, tmp_path / "cost.png")

    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
