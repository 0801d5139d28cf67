"""What happens to a pod on its worst days. Each scenario starts its own, and says which goals it missed."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import psutil
import requests

from shared_auth.contract import EMBED_TEXT
from tools.chaos.engine import FATAL, HANG, POISON
from tools.chaos.load import Client, Tally, background_load, closed_loop, next_text, open_loop, percentile
from tools.chaos.probe import Vitals, probed
from tools.testbed.control_plane import control_plane
from tools.testbed.process import GUNICORN, PodProcess, handler_process, pod_process
from tools.testbed.target import signed_text

COMMAND = [*GUNICORN, "tools.chaos.wsgi:app"]

# One item takes so long: the capacity is known, 100 a second, and the machine has time left for the clients.
ITEM_S = 0.01
CAPACITY = 1 / ITEM_S
OVERLOAD = 5

REPLACED_WITHIN_S = 60.0


@dataclass(slots=True)
class Report:
    """One row of the table. `missed` is empty when all goals were reached."""

    scenario: str
    tally: Tally = field(default_factory=Tally)
    vitals: Vitals = field(default_factory=Vitals)
    missed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def require(self, goal: str, reached: bool) -> None:
        if not reached:
            self.missed.append(goal)

    def require_all_answered(self) -> None:
        self.require("no request lost", self.tally.lost == 0)
        self.require("no wrong vector", self.tally.wrong == 0)
        self.require("something accepted", self.tally.accepted > 0)


@contextmanager
def chaos_pod(settings: Mapping[str, str] | None = None) -> Iterator[PodProcess]:
    """A pod with the scripted engine."""
    with pod_process({"CHAOS_ITEM_S": str(ITEM_S), **(settings or {})}, command=COMMAND) as pod:
        yield pod


@contextmanager
def under_probe(pod: PodProcess, report: Report) -> Iterator[None]:
    with probed(pod.base_url, pod.process.pid) as vitals:
        report.vitals = vitals
        yield


def run(work: Coroutine[None, None, None]) -> None:
    asyncio.run(work)


def for_seconds(seconds: float) -> Callable[[], bool]:
    """True once the time is over."""
    until_s = time.monotonic() + seconds
    return lambda: time.monotonic() > until_s


def overload(seconds: float) -> list[Report]:
    """Peak goodput first, then five times what the pod can do."""
    peak, flood = Report("peak"), Report(f"overload x{OVERLOAD}")
    with chaos_pod() as pod:
        with under_probe(pod, peak):
            until = for_seconds(min(seconds, 10.0))
            run(closed_loop(pod.base_url, peak.tally, clients=48, until=until))
        with under_probe(pod, flood):
            run(open_loop(pod.base_url, flood.tally, rate=CAPACITY * OVERLOAD, seconds=seconds))
    for report in (peak, flood):
        report.require_all_answered()
    grown_mb = flood.vitals.pss_mb[-1] - peak.vitals.pss_mb[-1]
    p99_ms = percentile(flood.vitals.health_ms, 99)
    flood.notes = [
        f"goodput {flood.tally.goodput:.0f}/s of peak {peak.tally.goodput:.0f}/s",
        f"health p99 {p99_ms:.0f} ms",
        f"memory {grown_mb:+.0f} MB",
    ]
    flood.require("90% of peak goodput", flood.tally.goodput >= 0.9 * peak.tally.goodput)
    flood.require("refusals under 50 ms at the median", 0 < flood.tally.refusal_p50_ms < 50)
    flood.require("/health p99 under 50 ms", p99_ms < 50)
    flood.require("no 5xx but 503", {status for status in flood.tally.statuses if status >= 500} <= {503})
    flood.require("memory grows by less than 50 MB", grown_mb < 50)
    return [peak, flood]


def vanishing_clients(seconds: float) -> list[Report]:
    """Hundreds of clients that send and hang up; those who stay are served as if the others were not there."""
    report = Report("vanishing clients")

    async def vanish(base_url: str, until: Callable[[], bool]) -> None:
        while not until():
            client = Client(base_url, Tally())
            await client.send_and_vanish(next_text())
            await asyncio.sleep(0.05)

    async def both(base_url: str) -> None:
        until = for_seconds(seconds)
        staying = closed_loop(base_url, report.tally, clients=8, until=until)
        await asyncio.gather(staying, *(vanish(base_url, until) for _ in range(16)))

    with chaos_pod() as pod, under_probe(pod, report):
        run(both(pod.base_url))
        report.notes = [f"goodput of those who stay {report.tally.goodput:.0f}/s of {CAPACITY:.0f}/s"]
    report.require_all_answered()
    report.require("those who stay get half of the capacity", report.tally.goodput >= CAPACITY / 2)
    report.require("no refusal", not report.tally.codes)
    return [report]


def sigterm(seconds: float) -> list[Report]:
    """SIGTERM under load: what was accepted is answered, the rest refused, exit status 0."""
    report = Report("SIGTERM")

    async def terminate(pod: PodProcess) -> None:
        async with background_load(pod.base_url, report.tally, clients=48):
            await asyncio.sleep(seconds)
            pod.process.terminate()
            while pod.process.poll() is None:
                await asyncio.sleep(0.05)

    with chaos_pod() as pod, under_probe(pod, report):
        run(terminate(pod))
        report.require("exit status 0", pod.wait_for_exit() == 0)
    report.require_all_answered()
    report.require("nothing but NOT_READY and OVERLOADED", set(report.tally.codes) <= {"NOT_READY", "OVERLOADED"})
    return [report]


def kill_9(seconds: float) -> list[Report]:
    """The worker is killed: what it held is lost, and the next one serves."""
    report = Report("kill -9")

    async def kill(pod: PodProcess) -> None:
        async with background_load(pod.base_url, report.tally, clients=16):
            await asyncio.sleep(seconds)
            before = workers(pod)
            for worker in before:
                os.kill(worker, signal.SIGKILL)
            replaced_s = await _replaced(pod, before)
            await asyncio.sleep(seconds)
        report.notes = [f"ready again after {replaced_s:.1f} s"]
        report.require("replaced within 60 s", replaced_s < REPLACED_WITHIN_S)

    with chaos_pod() as pod, under_probe(pod, report):
        run(kill(pod))
    report.require("only what was in flight is lost", report.tally.lost <= 16)
    report.require("no wrong vector", report.tally.wrong == 0)
    return [report]


def _fault(name: str, text: str, seconds: float, settings: Mapping[str, str]) -> Report:
    """A payload that breaks the device, under load."""
    report = Report(name)

    async def break_device(pod: PodProcess) -> None:
        guilty = Client(pod.base_url, Tally())
        async with background_load(pod.base_url, report.tally, clients=16):
            await asyncio.sleep(seconds)
            before = workers(pod)
            asking = asyncio.create_task(guilty.ask(text))
            replaced_s = await _replaced(pod, before)
            await asking
            await asyncio.sleep(seconds)
        guilty.close()
        report.notes = [f"ready again after {replaced_s:.1f} s"]
        report.require("replaced within 60 s", replaced_s < REPLACED_WITHIN_S)

    with chaos_pod(settings) as pod, under_probe(pod, report):
        run(break_device(pod))
    report.require_all_answered()
    report.require("only retryable refusals", set(report.tally.codes) <= {"NOT_READY", "OVERLOADED"})
    return report


def hang(seconds: float, settings: Mapping[str, str] | None = None) -> list[Report]:
    """A forward pass that never ends: noticed, everybody told, the process replaced."""
    return [_fault("hang", HANG, seconds, settings or {})]


def fatal(seconds: float) -> list[Report]:
    """A device that is lost."""
    return [_fault("fatal", FATAL, seconds, {})]


def pauses(pause_s: float, times: int = 10) -> list[Report]:
    """SIGSTOP, and SIGCONT after a while, of the worker alone and of the whole pod in turn: nobody is ended for it."""
    report = Report("pauses")

    async def pause(pod: PodProcess) -> None:
        before = workers(pod)
        async with background_load(pod.base_url, report.tally, clients=16):
            for number in range(times // 2):
                await _pause(pod, pause_s, whole=number % 2 == 0)
        for number in range(times // 2):
            await _pause(pod, pause_s, whole=number % 2 == 0)
        # Longer than the minute after which gunicorn's own clock would end a worker, if it were on.
        await _pause(pod, 2.2 * pause_s, whole=False)
        answered = report.tally.accepted
        await closed_loop(pod.base_url, report.tally, clients=16, until=for_seconds(2.0))
        report.require("answers after the last pause", report.tally.accepted > answered)
        report.require("the same worker", workers(pod) == before)

    with chaos_pod() as pod:
        run(pause(pod))
    report.notes = [f"{times} pauses of {pause_s:.0f} s and one of {2.2 * pause_s:.0f} s"]
    report.require_all_answered()
    report.require("no request failed", not report.tally.codes)
    return [report]


async def _pause(pod: PodProcess, seconds: float, *, whole: bool) -> None:
    with stopped(pod, whole=whole):
        await asyncio.sleep(seconds)
    # Whoever takes a pause for a hang says so within a second.
    await asyncio.sleep(2.0)


@contextmanager
def stopped(pod: PodProcess, *, whole: bool) -> Iterator[None]:
    """The pod with all its processes, or its worker alone, stands still until the block ends."""
    # Not the process group: image processes have sessions of their own.
    master = psutil.Process(pod.process.pid)
    everybody = {master.pid, *(process.pid for process in master.children(recursive=True))}
    halt = partial(_kill_each, everybody if whole else workers(pod))
    halt(signal.SIGSTOP)
    try:
        yield
    finally:
        halt(signal.SIGCONT)


def _kill_each(processes: set[int], number: int) -> None:
    for process in processes:
        os.kill(process, number)


async def _replaced(pod: PodProcess, before: set[int]) -> float:
    """Wait until other workers than those of `before` are ready; the seconds that took."""
    started_s = time.monotonic()
    while time.monotonic() < started_s + 2 * REPLACED_WITHIN_S:
        now = workers(pod)
        if now and not now & before and await asyncio.to_thread(_is_ready, pod.base_url):
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - started_s


def workers(pod: PodProcess) -> set[int]:
    return {child.pid for child in psutil.Process(pod.process.pid).children()}


def _is_ready(base_url: str) -> bool:
    try:
        return requests.get(base_url + "/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def poison(requests_after: int = 1000) -> list[Report]:
    """One poisoned item among others in a batch: its own request fails, nobody else's, and not the next thousand."""
    report = Report("poisoned item")
    poisoned = Tally()

    async def share_a_batch(base_url: str) -> None:
        guilty = Client(base_url, poisoned)
        async with background_load(base_url, report.tally, clients=31):
            for _ in range(10):
                await guilty.ask(POISON)
        guilty.close()

    async def go_on(base_url: str) -> None:
        enough = report.tally.accepted + requests_after
        await closed_loop(base_url, report.tally, clients=31, until=lambda: report.tally.accepted >= enough)

    with chaos_pod({"CHAOS_ITEM_S": "0.001"}) as pod, under_probe(pod, report):
        run(share_a_batch(pod.base_url))
        run(go_on(pod.base_url))
        halved = [line for line in pod.log_lines() if line["message"].startswith("a batch failed")]
    report.notes = [f"{len(halved)} shared batches halved"]
    report.require_all_answered()
    report.require("every poisoned request failed", dict(poisoned.codes) == {"INFERENCE_ERROR": 10})
    report.require("no other request failed", not report.tally.codes)
    report.require("batches were shared", len(halved) > 0)
    return [report]


def out_of_memory(seconds: float) -> list[Report]:
    """Batches of more than four do not fit: nobody notices."""
    report = Report("out of memory")
    with chaos_pod({"CHAOS_MAX_ITEMS": "4"}) as pod, under_probe(pod, report):
        run(closed_loop(pod.base_url, report.tally, clients=32, until=for_seconds(seconds)))
        halved = [line for line in pod.log_lines() if line["message"].startswith("a batch failed")]
    report.notes = [f"{len(halved)} batches halved"]
    report.require_all_answered()
    report.require("no request failed", not report.tally.codes)
    report.require("the smaller size is remembered", 0 < len(halved) < 10)
    return [report]


def handler_sigterm() -> list[Report]:
    """The serverless handler under load: every job that it took is answered."""
    report = Report("handler SIGTERM")
    with control_plane() as plane, handler_process(plane.worker_environment()) as process:
        with plane.submitting(lambda: {"path": EMBED_TEXT, **signed_text(next_text())}):
            plane.wait_for_answers(100)
            process.process.terminate()
            report.require("exit status 0", process.wait_for_exit() == 0)
        taken = [job for job in plane.jobs.values() if job.taken]
    report.tally.statuses[200] = sum("output" in job.result for job in taken)
    report.tally.lost = sum(not job.done.is_set() for job in taken)
    report.require_all_answered()
    return [report]
