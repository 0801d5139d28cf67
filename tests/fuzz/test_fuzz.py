"""A small slice of `make fuzz`."""

from tools.fuzz.images import fuzz_images
from tools.fuzz.requests import fuzz_requests


def test_mutated_images() -> None:
    """Pixels or an error of ours, for any bytes; no process dies."""
    report = fuzz_images(500, seed=1)

    assert ([], 0, 500) == (report.faults, report.deaths, sum(report.outcomes.values()))
    assert {"pixels", "INVALID_IMAGE"} <= report.outcomes.keys()


def test_mutated_requests() -> None:
    """An answer with a contract's code, never a 500, for anything that is HTTP."""
    report = fuzz_requests(500, seed=1)

    assert ([], 0, 500) == (report.faults, report.deaths, sum(report.outcomes.values()))
    assert {"401 AUTH_FAILED", "422 VALIDATION_ERROR"} <= report.outcomes.keys()
