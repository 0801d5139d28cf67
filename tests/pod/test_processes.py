"""Two workers of a real pod, around the scripted engine: one limit, one door, and each covers for the other."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from shared_auth.contract import EMBED_TEXT
from tools.chaos.engine import FATAL, HANG
from tools.chaos.scenarios import chaos_pod, workers
from tools.chaos.strangers import image_processes
from tools.testbed.process import PodProcess
from tools.testbed.target import signed_text

SOON_S = 60.0
MANY = 100
LOST = "lost"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file that a worker waits for when it loads; it is there until the test removes it."""
    path = tmp_path / "model"
    path.touch()
    return path


@contextmanager
def two_workers(settings: Mapping[str, str] | None = None) -> Iterator[PodProcess]:
    """A pod of which both serve."""
    with chaos_pod({"WORKERS": "2", **(settings or {})}) as pod:
        wait_for_serving(pod, workers(pod))
        yield pod


def wait_for_serving(pod: PodProcess, expected: set[int]) -> None:
    wait_until(pod, lambda: expected <= {line["pid"] for line in lines(pod, "this worker serves")})


def wait_for_boots(pod: PodProcess, count: int) -> None:
    """Wait until so many workers have been started, and those that are there are children of the master."""
    wait_until(pod, lambda: len(lines(pod, "Booting worker")) >= count)


def wait_until(pod: PodProcess, reached: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not reached():
        assert time.monotonic() < until_s, pod.log()
        time.sleep(0.02)


def lines(pod: PodProcess, message: str) -> list[dict[str, object]]:
    return [line for line in pod.log_lines() if str(line["message"]).startswith(message)]


def ask(pod: PodProcess, text: str = "12345678", session: requests.Session | None = None, most_ms: int = 60_000) -> str:
    """`OK`, the error's code, or `LOST` where the connection ended without an answer."""
    post = requests.post if session is None else session.post
    headers = {"X-Request-Timeout-Ms": str(most_ms)}
    try:
        answer = post(pod.base_url + EMBED_TEXT, json=signed_text(text), headers=headers, timeout=SOON_S)
    except requests.ConnectionError:
        return LOST
    return "OK" if answer.ok else str(answer.json()["error"]["code"])


def always(_code: str) -> bool:
    return True


def never(_code: str) -> bool:
    return False


def refused(code: str) -> bool:
    return code == "OVERLOADED"


class Asking:
    """Clients that ask the same, each as long as it is to ask `again`, and count what they get."""

    def __init__(
        self, pod: PodProcess, clients: int, text: str = "12345678", *, again: Callable[[str], bool] = always
    ) -> None:
        self.codes = Counter[str]()
        self._again = again
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(pod, text)) for _ in range(clients)]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(SOON_S)

    def _ask(self, pod: PodProcess, text: str) -> None:
        with requests.Session() as session:
            code = ask(pod, text, session)
            self.codes[code] += 1
            while self._again(code) and not self._ended.is_set():
                code = ask(pod, text, session)
                self.codes[code] += 1


def wait_until_full(pod: PodProcess) -> None:
    """Wait until every place is held by others."""
    wait_until(pod, lambda: all(ask(pod, most_ms=50) == "OVERLOADED" for _ in range(5)))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_places_are_those_of_the_pod(tmp_path: Path) -> None:
    """Both workers together admit as many requests as one would, and refuse the others at once."""
    release = tmp_path / "release"
    settings = {"MAX_CONCURRENT_REQUESTS": "2", "CHAOS_RELEASE": str(release)}
    with two_workers(settings) as pod, Asking(pod, 12, HANG, again=never) as asking:
        wait_until(pod, lambda: asking.codes["OVERLOADED"] >= 10)
        release.touch()

    # At the last place two that come at once may both be refused.
    assert {"OK", "OVERLOADED"} == asking.codes.keys()
    assert asking.codes["OK"] <= 2


def test_places_of_a_killed_worker_are_given_back(tmp_path: Path) -> None:
    """What it was at work on is lost, and others are admitted in its stead, by either worker."""
    settings = {"MAX_CONCURRENT_REQUESTS": "1", "CHAOS_RELEASE": str(tmp_path / "release")}
    with two_workers(settings) as pod, Asking(pod, 1, HANG, again=refused) as asking:
        wait_until_full(pod)
        for pid in workers(pod):
            kill(pid)
        wait_for_boots(pod, 4)
        wait_for_serving(pod, workers(pod))
        codes = Counter(ask(pod) for _ in range(MANY))

    assert 1 == asking.codes[LOST]
    assert {"OK": MANY} == codes


def test_nobody_is_told_to_wait_while_one_serves(model: Path) -> None:
    """A worker is killed under load, and the next one loads for long: the other one has every request meanwhile."""
    with two_workers({"CHAOS_MODEL": str(model)}) as pod:
        killed, _ = workers(pod)
        model.unlink()
        with Asking(pod, 4) as asking:
            wait_until(pod, lambda: asking.codes["OK"] > MANY)
            kill(killed)
            wait_for_boots(pod, 3)
            fresh = Counter(ask(pod) for _ in range(MANY))
            ready = {requests.get(pod.base_url + "/readyz", timeout=SOON_S).status_code for _ in range(MANY)}

    assert {"OK": MANY} == fresh
    assert {200} == ready
    assert asking.codes.keys() <= {"OK", LOST}
    assert asking.codes[LOST] <= 4


def test_one_that_loads_says_so_when_nobody_serves(model: Path) -> None:
    """Health and work are answered as by a pod that starts; when one of them has loaded it is asked, and no other."""
    with two_workers({"CHAOS_MODEL": str(model)}) as pod:
        model.unlink()
        for pid in workers(pod):
            kill(pid)
        wait_for_boots(pod, 4)
        paths = ("/readyz", "/livez", "/ping")
        statuses = [requests.get(pod.base_url + path, timeout=SOON_S).status_code for path in paths]
        code = ask(pod)
        model.touch()
        wait_until(pod, lambda: lines(pod, "this worker serves")[2:] != [])
        afterwards = Counter(ask(pod) for _ in range(MANY))

    assert [503, 200, 204] == statuses
    assert "NOT_READY" == code
    assert {"OK": MANY} == afterwards


def test_worker_with_a_lost_device_is_asked_no_more() -> None:
    """It has told whoever waited, ends and is replaced; whoever comes next goes to the other one."""
    with two_workers() as pod:
        before = workers(pod)
        told = ask(pod, FATAL)
        codes = Counter(ask(pod) for _ in range(MANY))
        wait_for_boots(pod, 3)
        after = workers(pod)

    assert "NOT_READY" == told
    assert {"OK": MANY} == codes
    assert 1 == len(before & after)


def test_worker_that_cannot_load_does_not_end_one_that_serves(model: Path) -> None:
    """It is tried again and again beside the other one, until it can."""
    with two_workers({"CHAOS_MODEL": str(model)}) as pod:
        killed, kept = workers(pod)
        model.write_text("broken")
        kill(killed)
        wait_until(pod, lambda: lines(pod, "cannot start") != [])
        wait_for_boots(pod, 4)
        code = ask(pod)
        model.write_text("")
        wait_until(pod, lambda: lines(pod, "this worker serves")[2:] != [])
        after = workers(pod)

    assert "OK" == code
    assert kept in after


def test_sigterm_drains_both(tmp_path: Path) -> None:
    """Whatever either has accepted is answered, and the pod ends well."""
    release = tmp_path / "release"
    with two_workers({"MAX_CONCURRENT_REQUESTS": "6", "CHAOS_RELEASE": str(release)}) as pod:
        with Asking(pod, 6, HANG, again=refused) as asking:
            wait_until_full(pod)
            pod.process.terminate()
            pod.wait_for_log("Handling signal: term")
            release.touch()
        status = pod.wait_for_exit()

    assert 6 == asking.codes["OK"]
    assert {"OK", "OVERLOADED"} >= asking.codes.keys()
    assert 0 == status


def test_reload_costs_nobody_an_answer() -> None:
    """The old workers serve until one of the new ones does; then they end, and each client goes on with a new one."""
    with two_workers() as pod, Asking(pod, 4) as asking:
        before = workers(pod)
        wait_until(pod, lambda: asking.codes["OK"] > MANY)
        pod.process.send_signal(signal.SIGHUP)
        wait_until(pod, lambda: before.isdisjoint(workers(pod)))
        wait_for_serving(pod, workers(pod))
        answered = asking.codes["OK"]
        wait_until(pod, lambda: asking.codes["OK"] > answered + MANY)

    assert {"OK"} == asking.codes.keys()


def test_image_processes_are_shared_out() -> None:
    """Two workers have as many as one would."""
    with two_workers({"IMAGE_PROCESSES": "2"}) as pod:
        assert 2 == len(image_processes(pod))
