"""A pod whose bodies are small, so that one that is too large is soon sent."""

from collections.abc import Iterator

import pytest

from tools.testbed.process import PodProcess, pod_process


@pytest.fixture(scope="session")
def strict_pod() -> Iterator[PodProcess]:
    """Takes bodies of a mebibyte."""
    with pod_process({"MAX_BODY_BYTES": "1048576"}) as process:
        yield process
