"""Who is paused and who is stuck, in real pods: nobody is ended for a pause, and whatever is stuck is ended."""

import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from core.process.sentinel_process import SIGN_BYTES
from shared_auth.contract import EMBED_TEXT
from tools.chaos.engine import HANG, SEIZE
from tools.chaos.scenarios import chaos_pod, stopped, workers
from tools.testbed.process import GUNICORN, ROOT, PodProcess, environment
from tools.testbed.target import signed_text

SOON_S = 60.0

# The watchdog looks twice a second: whatever it makes of a pause, it has made of it by then.
ROUNDS_S = 2.0

FORWARD_S = 10.0
HUB_S = 5.0


def pause(alone: PodProcess, whole: PodProcess, seconds: float) -> None:
    """Of one pod the worker stands still, of the other all that belongs to it; at once, because it takes long."""
    with stopped(alone, whole=False), stopped(whole, whole=True):
        time.sleep(seconds)
    time.sleep(ROUNDS_S)


def ask(pod: PodProcess, text: str) -> int:
    return requests.post(pod.base_url + EMBED_TEXT, json=signed_text(text), timeout=SOON_S).status_code


def wait_for_pass(pod: PodProcess) -> None:
    """Wait until the device is busy: who asks with little patience is not answered."""
    hurry = {"X-Request-Timeout-Ms": "50"}
    until_s = time.monotonic() + SOON_S
    while requests.post(pod.base_url + EMBED_TEXT, json=signed_text("1"), headers=hurry, timeout=SOON_S).ok:
        assert time.monotonic() < until_s


def test_pass_goes_on_after_a_pause(tmp_path: Path) -> None:
    """A pause that is longer than a pass may take, in the midst of one: it ends as it would have, and is answered."""
    release = tmp_path / "release"
    settings = {"CHAOS_RELEASE": str(release), "WATCHDOG_FORWARD_S": str(FORWARD_S)}
    statuses: list[int] = []
    with chaos_pod(settings) as alone, chaos_pod(settings) as whole:
        pods = (alone, whole)
        before = [workers(pod) for pod in pods]
        asking = [threading.Thread(target=lambda pod=pod: statuses.append(ask(pod, HANG))) for pod in pods]
        for thread in asking:
            thread.start()
        for pod in pods:
            wait_for_pass(pod)
        pause(alone, whole, FORWARD_S + 1)
        release.touch()
        for thread in asking:
            thread.join(SOON_S)

        assert [200, 200] == statuses
        assert before == [workers(pod) for pod in pods]


def test_idle_pod_goes_on_after_a_pause() -> None:
    """A platform that freezes an idle worker for longer than any limit finds it as it was."""
    settings = {"WATCHDOG_HUB_S": str(HUB_S)}
    with chaos_pod(settings) as alone, chaos_pod(settings) as whole:
        pods = (alone, whole)
        before = [workers(pod) for pod in pods]
        pause(alone, whole, 2 * HUB_S)
        statuses = [ask(pod, "12345678") for pod in pods]

        assert [200, 200] == statuses
        assert before == [workers(pod) for pod in pods]


def test_master_does_not_judge_by_the_clock() -> None:
    """Else it would kill, after a freeze of the whole pod, workers that have had no time for a sign of life."""
    command = [*GUNICORN, "--print-config", "pod.wsgi:app"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    shown = dict(line.split("=", 1) for line in done.stdout.replace(" ", "").splitlines() if "=" in line)

    assert "0" == shown["timeout"]


def wait_for_signs(pod: PodProcess) -> None:
    """Wait until the watchdog has seen that the model is loaded, and has said so: loading may take long."""
    [worker] = psutil.Process(pod.process.pid).children()
    [sentinel] = [child for child in worker.children() if "sentinel" in " ".join(child.cmdline())]
    until_s = time.monotonic() + SOON_S
    signs, read = 0, sentinel.io_counters().read_chars
    # The first may be from before.
    while signs < 2:
        assert time.monotonic() < until_s
        before, read = read, sentinel.io_counters().read_chars
        signs += read - before == SIGN_BYTES


def seize(pod: PodProcess) -> None:
    """Have the worker hold its interpreter lock for good, so that its hub answers nobody any more."""

    def answers() -> bool:
        try:
            requests.get(pod.base_url + "/livez", timeout=2.0)
        except requests.RequestException:
            return False
        return True

    threading.Thread(target=_ask_in_vain, args=(pod.base_url + EMBED_TEXT,), daemon=True).start()
    until_s = time.monotonic() + SOON_S
    while answers():
        assert time.monotonic() < until_s


def _ask_in_vain(url: str) -> None:
    with suppress(requests.RequestException):
        requests.post(url, json=signed_text(SEIZE), timeout=2 * SOON_S)


def test_worker_that_holds_its_interpreter_is_replaced() -> None:
    """Nothing in the process can end it, and its master does not look: the sentinel does, and the next one serves."""
    with chaos_pod({"WATCHDOG_HUB_S": str(HUB_S)}) as pod:
        before = workers(pod)
        wait_for_signs(pod)
        seize(pod)
        ended = pod.wait_for_log("ended a process that gave no sign of life")
        pod.wait_until_ready()
        status = ask(pod, "12345678")
        log = pod.log()

        assert 200 == status
        assert before.isdisjoint(workers(pod))

    assert before == {ended["pid"]}
    assert "in seize_interpreter" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pod_with_a_stuck_worker_can_be_ended(number: signal.Signals) -> None:
    """A worker that hears no signal holds up the end for the drain's time, and leaves no process behind."""
    with chaos_pod({"WATCHDOG_HUB_S": "600", "DRAIN_TIMEOUT_S": "1"}) as pod:
        processes = psutil.Process(pod.process.pid).children(recursive=True)
        seize(pod)
        pod.process.send_signal(number)
        status = pod.wait_for_exit()
        _, alive = psutil.wait_procs(processes, timeout=SOON_S)

    assert len(processes) > 2
    assert (0, []) == (status, alive)
