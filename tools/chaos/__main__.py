"""`make chaos`: everything that can go wrong with a pod, one after another, as a table. Bounded in time.

The model is scripted, the rest is real: gunicorn, sockets, the watchdog, signals. Exit status 1 when a goal is missed.
"""

import argparse
import sys
from collections.abc import Callable, Mapping

from tools.chaos import rude, scenarios, strangers
from tools.chaos.scenarios import Report

_HEADER = ("scenario", "requests", "accepted", "answered", "lost", "wrong", "refusal p50 ms", "worst health ms", "MB")


def main(arguments: list[str] | None = None) -> int:
    """Run the scenarios and print the table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload, and of two pauses (default 60)")
    parser.add_argument("--only", choices=sorted(_scenarios(0)), help="one scenario")
    options = parser.parse_args(arguments)
    chosen = _scenarios(options.seconds)
    print(_row(_HEADER), flush=True)
    reports = [
        report for name, scenario in chosen.items() if options.only in (None, name) for report in _shown(scenario)
    ]
    missed = [f"{report.scenario}: {goal}" for report in reports for goal in report.missed]
    print("\n".join(f"MISSED {goal}" for goal in missed) or "all goals reached")
    return 1 if missed else 0


def _scenarios(seconds: float) -> Mapping[str, Callable[[], list[Report]]]:
    short_s = min(seconds, 5.0)
    return {
        "overload": lambda: scenarios.overload(seconds),
        "vanish": lambda: scenarios.vanishing_clients(short_s * 2),
        "poison": scenarios.poison,
        "oom": lambda: scenarios.out_of_memory(short_s),
        "sigterm": lambda: scenarios.sigterm(short_s),
        "kill": lambda: scenarios.kill_9(short_s),
        "fatal": lambda: scenarios.fatal(short_s),
        "hang": lambda: scenarios.hang(short_s),
        "pauses": lambda: scenarios.pauses(seconds / 2),
        "handler": scenarios.handler_sigterm,
        "decode": lambda: _of_each(strangers.decode_attack, seconds / 3),
        "memory": lambda: _of_each(strangers.memory_attack, seconds / 3),
        "image-kill": lambda: strangers.killed_image_processes(seconds / 3),
        "hub": lambda: [report for name in rude.ATTACKS for report in rude.hub_attack(name, seconds / 6)],
        "slow-host": lambda: strangers.slow_host(seconds / 6),
    }


def _of_each(attack: Callable[..., list[Report]], seconds: float) -> list[Report]:
    """One attacker and two, beside a device of its own; two where decoder and device share the cores."""
    cases = ({"attackers": 1}, {"attackers": 2}, {"attackers": 2, "in_turns": True})
    return [report for case in cases for report in attack(seconds, **case)]


def _shown(scenario: Callable[[], list[Report]]) -> list[Report]:
    reports = scenario()
    for report in reports:
        tally, vitals = report.tally, report.vitals
        answered = tally.requests - tally.lost
        counts = [tally.requests, tally.accepted, answered, tally.lost, tally.wrong]
        figures = [f"{value:.0f}" for value in (tally.refusal_p50_ms, vitals.worst_ms, vitals.peak_mb)]
        print(_row((report.scenario, *map(str, counts), *figures)), "; ".join(report.notes), flush=True)
    return reports


def _row(cells: tuple[str, ...]) -> str:
    return f"{cells[0]:<28}" + "".join(
        f"{cell:>{max(len(title), 8) + 2}}" for cell, title in zip(cells[1:], _HEADER[1:], strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
