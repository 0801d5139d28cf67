"""What the processor offers, as this machine says it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.process import cpu


def test_cores_are_between_one_and_the_affinity() -> None:
    """A quota can only take away, and never everything."""
    assert 1 <= cpu.available_cores() <= len(os.sched_getaffinity(0))


def test_affinity_is_respected() -> None:
    """A process pinned to one core counts one."""
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(whole)})
    try:
        assert 1 == cpu.available_cores()
    finally:
        os.sched_setaffinity(0, whole)


V1_QUOTA, V1_PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({"cpu.max": "100000 100000"}, 1, id="one core"),
        pytest.param({"cpu.max": "150000 100000"}, 1, id="one and a half"),
        pytest.param({"cpu.max": "20000 100000"}, 1, id="a fifth"),
        pytest.param({V1_QUOTA: "100000", V1_PERIOD: "100000"}, 1, id="version 1"),
        pytest.param({"cpu.max": "max 100000"}, None, id="no quota"),
        pytest.param({"cpu.max": "99900000 100000"}, None, id="more than there are"),
        pytest.param({V1_QUOTA: "-1", V1_PERIOD: "100000"}, None, id="version 1, no quota"),
        pytest.param({}, None, id="no control group"),
    ],
)
def test_quota_of_the_container_is_respected(tmp_path: Path, files: Mapping[str, str], cores: int | None) -> None:
    """A container of one core on a large host must not start a thread for each of the host's."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")

    affinity = len(os.sched_getaffinity(0))

    assert (affinity if cores is None else cores) == cpu.available_cores(tmp_path)
