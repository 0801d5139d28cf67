"""`make fuzz`: mutated images through the decoder and mutated requests through a real pod; bounded and seeded.

Reports what came out, how many processes died, how many answers were a 500, and how memory grew. Exit status 1 when
a process died, anything but our own errors came out, a request got a 500 or no answer, or memory kept growing.
"""

import argparse
import sys
import time
from collections.abc import Callable

from tools.fuzz.images import fuzz_images
from tools.fuzz.report import FuzzReport
from tools.fuzz.requests import fuzz_requests


def main(arguments: list[str] | None = None) -> int:
    """Run both and print both reports. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    reports = [
        _shown("images", options.images, fuzz_images, options.seed),
        _shown("requests", options.requests, fuzz_requests, options.seed),
    ]
    return 0 if all(report.ok for report in reports) else 1


def _shown(what: str, count: int, fuzz: Callable[[int, int], FuzzReport], seed: int) -> FuzzReport:
    started_s = time.monotonic()
    report = fuzz(count, seed)
    print(f"{count} {what}, seed {seed}, {time.monotonic() - started_s:.0f} s")
    for outcome, number in report.outcomes.most_common():
        print(f"  {number:>8}  {outcome}")
    print(f"  process deaths {report.deaths}, faults {len(report.faults)}, memory {report.grown_mb:+.1f} MB")
    for fault in report.faults[:10]:
        print(f"  FAULT {fault}")
    return report


if __name__ == "__main__":
    sys.exit(main())
