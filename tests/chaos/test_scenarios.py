"""Small slices of `make chaos`: the same scenarios for seconds, with the goals that hold on any machine."""

import socket
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import pytest
import requests

from shared_auth.contract import EMBED_TEXT
from tools.chaos import scenarios, strangers
from tools.chaos.engine import FATAL, HANG
from tools.chaos.load import text_question
from tools.chaos.scenarios import Report, chaos_pod
from tools.chaos.strangers import Speed
from tools.testbed.process import PodProcess
from tools.testbed.target import signed_text

SOON_S = 30.0


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda: scenarios.poison(requests_after=200), id="poisoned item in a shared batch"),
        pytest.param(lambda: scenarios.out_of_memory(2.0), id="out of memory"),
        pytest.param(lambda: scenarios.sigterm(1.0), id="SIGTERM under load"),
        pytest.param(lambda: scenarios.kill_9(0.5), id="kill -9 under load"),
        pytest.param(lambda: scenarios.fatal(0.5), id="lost device"),
        pytest.param(lambda: scenarios.hang(0.5, {"WATCHDOG_FORWARD_S": "2"}), id="stuck forward pass"),
        pytest.param(lambda: scenarios.pauses(1.0, times=4), id="pauses"),
    ],
)
def test_scenario(run: Callable[[], list[Report]]) -> None:
    """Every goal is reached."""
    reports = run()

    assert [] == [goal for report in reports for goal in report.missed]


@pytest.mark.parametrize("in_turns", [pytest.param(False, id="own device"), pytest.param(True, id="shared cores")])
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(partial(strangers.decode_attack, 2.0), id="decode attack"),
        pytest.param(partial(strangers.decode_attack, 2.0, settings={"MAX_DECODE_CPU_S": "1"}), id="decodes ended"),
        pytest.param(partial(strangers.memory_attack, 2.0), id="memory attack"),
        pytest.param(partial(strangers.killed_image_processes, 2.0), id="image process killed"),
        pytest.param(partial(strangers.slow_host, 2.0), id="slow host"),
    ],
)
def test_strangers(run: Callable[..., list[Report]], *, in_turns: bool) -> None:
    """Every goal but those of speed: answers are right, attackers get their errors, only image processes end."""
    reports = run(in_turns=in_turns)

    assert [] == [goal for report in reports for goal in report.missed if not isinstance(goal, Speed)]


def test_overload_is_refused_not_queued() -> None:
    """Far more than fits: some are served, the rest is refused with OVERLOADED, and nothing is lost or wrong."""
    _, flood = scenarios.overload(2.0)

    assert (0, 0) == (flood.tally.lost, flood.tally.wrong)
    assert flood.tally.accepted > 0
    assert {"OVERLOADED"} == set(flood.tally.codes)


def statuses(pod: PodProcess) -> dict[str, int]:
    paths = ("/health", "/livez", "/readyz", "/ping")
    return {path: requests.get(pod.base_url + path, timeout=SOON_S).status_code for path in paths}


def post(pod: PodProcess, text: str, **headers: str) -> requests.Response:
    return requests.post(pod.base_url + EMBED_TEXT, json=signed_text(text), headers=headers, timeout=SOON_S)


@pytest.mark.parametrize(
    ("text", "settings"),
    [pytest.param(FATAL, {}, id="lost device"), pytest.param(HANG, {"WATCHDOG_FORWARD_S": "1"}, id="stuck pass")],
)
def test_health_tells_of_a_fault(text: str, settings: dict[str, str]) -> None:
    """After the fault and before the fresh process: unhealthy everywhere, and work is refused as retryable."""
    with chaos_pod(settings) as pod:
        broken = post(pod, text)
        told = statuses(pod)
        refused = post(pod, "00000001")
        fault = pod.wait_for_log("ending this process")

    assert (503, "NOT_READY") == (broken.status_code, broken.json()["error"]["code"])
    assert {"/health": 503, "/livez": 503, "/readyz": 503, "/ping": 503} == told
    assert (503, "NOT_READY", True) == (
        refused.status_code,
        refused.json()["error"]["code"],
        refused.json()["error"]["retryable"],
    )
    assert fault["level"] == "CRITICAL"


def test_timeout_header_is_honoured_while_the_model_hangs() -> None:
    """The caller is answered when its own time is over, whatever the device does."""
    with chaos_pod() as pod:
        answer = post(pod, HANG, **{"X-Request-Timeout-Ms": "200"})
        pod.kill()

    assert (504, "DEADLINE_EXCEEDED", True) == (
        answer.status_code,
        answer.json()["error"]["code"],
        answer.json()["error"]["retryable"],
    )


def test_request_of_a_vanished_client_gives_its_place_back() -> None:
    """A request that waits for the device is dropped when its client hangs up: the place is free at once."""
    settings = {"MAX_CONCURRENT_REQUESTS": "2", "MAX_DEVICE_BATCH": "1", "WATCHDOG_FORWARD_S": "60"}
    with chaos_pod(settings) as pod:
        hanging = sent(pod, HANG)
        wait_for_code(pod, "DEADLINE_EXCEEDED")
        waiting = sent(pod, "00000001")
        wait_for_code(pod, "OVERLOADED")
        waiting.close()
        wait_for_code(pod, "DEADLINE_EXCEEDED")
        gone = wait_for_vanished(pod)
        hanging.close()
        pod.kill()

    assert ["DEADLINE_EXCEEDED"] == gone


def wait_for_vanished(pod: PodProcess) -> list[str]:
    """The codes of requests whose clients have hung up: a place is free a moment before that is written."""
    until_s = time.monotonic() + SOON_S
    while not (gone := [line["code"] for line in pod.log_lines() if line.get("client_gone")]):
        assert time.monotonic() < until_s
    return gone


def sent(pod: PodProcess, text: str) -> socket.socket:
    """A connection on which a request was sent."""
    url = urlsplit(pod.base_url)
    connection = socket.create_connection((url.hostname, url.port), timeout=SOON_S)
    connection.sendall(text_question(text).request())
    return connection


def wait_for_code(pod: PodProcess, code: str) -> None:
    """Ask with little patience until the pod answers with `code`."""
    until_s = time.monotonic() + SOON_S
    while post(pod, "00000002", **{"X-Request-Timeout-Ms": "20"}).json().get("error", {}).get("code") != code:
        assert time.monotonic() < until_s, f"never {code}"
