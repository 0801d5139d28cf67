"""Processor time by stage: nothing is lost, nothing is counted twice."""

import os
import subprocess
import sys
import threading

import psutil
import pytest

from bench.usage import DECODES, DEVICES, DOWNLOADS, HUB, OTHER, REQUESTS, Usage, spent, stage_of

NAMES = {1: "MainThread", 2: "device-cuda", 3: "download_7", 4: "decode_0", 5: "watchdog", 6: "Dummy-3"}


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        pytest.param("device-cuda:1", DEVICES, id="device"),
        pytest.param("download_12", DOWNLOADS, id="download"),
        pytest.param("decode_0", DECODES, id="decode"),
        pytest.param("watchdog", OTHER, id="unknown-name"),
        pytest.param("Dummy-4", REQUESTS, id="met-by-python"),
        pytest.param(None, REQUESTS, id="unknown-to-python"),
    ],
)
def test_a_threads_name_says_its_stage(name: str | None, stage: str) -> None:
    """Python's own threads go by their names; those that gevent has started run requests."""
    assert stage == stage_of(name)


def test_every_thread_counts_in_its_stage() -> None:
    """A stage has what its threads have used since the first moment, those included that were not there then."""
    before = Usage(10.0, 1.0, {1: 5.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 0.5, 6: 1.0})
    after = Usage(17.5, 3.0, {1: 6.0, 2: 1.5, 3: 2.0, 4: 3.0, 5: 0.5, 6: 2.0, 7: 2.0})
    actual = spent(before, after, NAMES, main_thread=1)

    assert {HUB: 1.0, REQUESTS: 3.0, DEVICES: 0.5, DOWNLOADS: 1.0, DECODES: 2.0, OTHER: 0.0} == actual.stages_s
    assert (7.5, 2.0) == (actual.main_s, actual.others_s)


def test_what_threads_used_that_ended_is_not_lost() -> None:
    """The process has used more than its present threads: the rest counts as other."""
    actual = spent(Usage(1.0, 0.0, {1: 0.5, 2: 0.5}), Usage(4.0, 0.0, {1: 1.0}), NAMES, main_thread=1)

    assert {0.5, 2.5} == {actual.stages_s[HUB], actual.stages_s[OTHER]}
    assert actual.main_s == sum(actual.stages_s.values())


def test_rounds_add_up() -> None:
    """Two rounds together have used what each has."""
    one = spent(Usage(0.0, 0.0, {}), Usage(2.0, 1.0, {1: 1.5}), NAMES, main_thread=1)
    both = one + one

    assert (4.0, 2.0, 3.0, 1.0) == (both.main_s, both.others_s, both.stages_s[HUB], both.stages_s[OTHER])


def test_the_kernel_tells_of_threads_and_of_ended_children() -> None:
    """Of a real process: this thread is among its threads, and a child that has ended still counts."""
    this = psutil.Process(os.getpid())
    before = Usage.so_far(this)
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    after = Usage.so_far(this)

    assert threading.get_native_id() in after.threads_s
    assert after.others_s > before.others_s
