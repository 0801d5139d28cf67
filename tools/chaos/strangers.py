"""What strangers' images do to a pod: files that cost time or memory, slow hosts, image processes that are killed.

Beside each attack a good client asks for small pictures; it is what the goals are about.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import cycle

import psutil

from core.settings import load_settings
from tools.chaos.bombs import large_files, slow_files
from tools.chaos.images import image_host, late_url, picture_url
from tools.chaos.load import (
    Question,
    Tally,
    background_load,
    batch_question,
    closed_loop,
    image_question,
    next_text,
    percentile,
)
from tools.chaos.probe import probed
from tools.chaos.scenarios import Report, chaos_pod, for_seconds, run
from tools.testbed.process import PodProcess

GOOD_CLIENTS = 4
BATCH = 16

# The rest of the throughput may be the attack's: its share of the cores is not nothing.
LEAST_OF_ALONE = 0.8

# Quick enough that images, and not the scripted model, decide the throughput.
ITEM_S = 0.002

PROCESSES = 2
_SETTINGS = {"CHAOS_ITEM_S": str(ITEM_S), "IMAGE_PROCESSES": str(PROCESSES)}
# Of an image process without an image in it: see core/images/settings.py.
_BASE_MB = 268

_IN_TURNS = {"CHAOS_IN_TURNS": "1"}


class Speed(str):
    """A goal that depends on the machine, and on who else is busy on it."""

    __slots__ = ()


@dataclass(slots=True)
class Attack:
    """A good client alone and under attack, and what became of the attackers' requests."""

    alone: Report
    under: Report
    attackers: Tally = field(default_factory=Tally)

    @property
    def kept(self) -> float:
        """The good client's throughput under attack, as a part of what it has alone."""
        return self.under.tally.goodput / self.alone.tally.goodput if self.alone.tally.goodput else 0.0

    def reports(self) -> list[Report]:
        livez_p99_ms = [percentile(report.vitals.health_ms, 99) for report in (self.alone, self.under)]
        self.under.notes += [
            f"goodput {self.under.tally.goodput:.0f}/s of {self.alone.tally.goodput:.0f}/s alone ({self.kept:.0%})",
            f"/livez p99 {livez_p99_ms[1]:.0f} ms, alone {livez_p99_ms[0]:.0f}",
            f"attackers {dict(self.attackers.codes)}, {self.attackers.accepted} vectors",
        ]
        return [self.alone, self.under]

    def require_served(self) -> None:
        self.under.require(Speed(f"{LEAST_OF_ALONE:.0%} of the throughput alone"), self.kept >= LEAST_OF_ALONE)
        for report in (self.alone, self.under):
            report.require_all_answered()
            report.require("no good request failed", not report.tally.codes)
        self.under.require("no attacker lost", self.attackers.lost == 0)


def decode_attack(
    seconds: float, *, attackers: int = 2, in_turns: bool = False, settings: Mapping[str, str] | None = None
) -> list[Report]:
    """Files that take their decoder seconds, again and again."""
    files = slow_files()
    pod = _pod(settings, in_turns=in_turns)
    attack = _attack(f"decode attack x{attackers}{_way(in_turns)}", seconds, files, attackers=attackers, pod=pod)
    # A slow image gives way, and has no end in its time where others want all of the processor.
    allowed = {"INVALID_IMAGE", "OVERLOADED", "DEADLINE_EXCEEDED"}
    attack.under.require(f"attackers get {allowed}", set(attack.attackers.codes) <= allowed)
    attack.under.require("what is over a limit is refused", attack.attackers.codes["INVALID_IMAGE"] > 0)
    return attack.reports()


def memory_attack(seconds: float, *, attackers: int = 2, in_turns: bool = False) -> list[Report]:
    """Files that take as much memory as one may."""
    pod, name = _pod(in_turns=in_turns), f"memory attack x{attackers}{_way(in_turns)}"
    attack = _attack(name, seconds, large_files(), attackers=attackers, pod=pod)
    # A picture that is black has no vector in the scripted model.
    allowed = {"INVALID_IMAGE", "IMAGE_TOO_LARGE", "OVERLOADED", "INFERENCE_ERROR", "DEADLINE_EXCEEDED"}
    bound_mb = attack.alone.vitals.peak_mb + most_mb_of_image_processes(_SETTINGS)
    attack.under.notes.append(f"{attack.under.vitals.peak_mb:.0f} MB of at most {bound_mb:.0f}")
    attack.under.require("memory under its bound", attack.under.vitals.peak_mb < bound_mb)
    attack.under.require(f"attackers get {allowed}", set(attack.attackers.codes) <= allowed)
    return attack.reports()


def most_mb_of_image_processes(settings: Mapping[str, str]) -> float:
    """What they may take together: each the interpreter, one decode and its share of the downloads. For each there may
    be one more that was left alone with a slow image, and for two of them one that is for slow images.
    """
    read = load_settings({"ALLOW_INSECURE_AUTH": "1", **settings})
    downloads_mb = read.max_image_bytes_in_flight / PROCESSES / 1e6
    return (2 * PROCESSES + max(1, PROCESSES // 2)) * (_BASE_MB + read.max_decode_bytes / 1e6 + downloads_mb)


def _attack(
    name: str, seconds: float, files: Mapping[str, bytes], *, attackers: int, pod: AbstractContextManager[PodProcess]
) -> Attack:
    """The good client alone, and then beside `attackers` that ask for one file after the other."""
    attack = Attack(Report("images alone"), Report(name))
    questions = cycle(sorted(files))
    with image_host(files) as host, image_host() as good_host, pod as running:
        before = lasting_processes(running)
        with probed(running.base_url, running.process.pid, path="/livez") as attack.alone.vitals:
            run(_good_load(running, attack.alone.tally, good_host, for_seconds(seconds)))
        with probed(running.base_url, running.process.pid, path="/livez") as attack.under.vitals:
            run(_both(running, attack, good_host, lambda: image_question(host + next(questions)), attackers, seconds))
        attack.under.require("nobody but image processes has ended", before <= lasting_processes(running))
    attack.require_served()
    return attack


def _way(in_turns: bool) -> str:
    return ", in turns" if in_turns else ""


async def _both(
    pod: PodProcess, attack: Attack, good_host: str, asks: Callable[[], Question], attackers: int, seconds: float
) -> None:
    load = background_load(pod.base_url, attack.attackers, clients=attackers, questions=asks)
    async with load:
        await asyncio.sleep(1.0)
        await _good_load(pod, attack.under.tally, good_host, for_seconds(seconds))
        # Each attacker has had an answer, however slow its file.
        while sum(attack.attackers.statuses.values()) < attackers:
            await asyncio.sleep(0.05)


async def _good_load(pod: PodProcess, tally: Tally, host: str, until: Callable[[], bool]) -> None:
    await closed_loop(pod.base_url, tally, clients=GOOD_CLIENTS, until=until, questions=lambda: small_picture(host))


def small_picture(host: str) -> Question:
    name = next_text()
    return image_question(picture_url(host, name), name)


def batch_of(url_of: Callable[[str, str], str], host: str) -> Question:
    names = [next_text() for _ in range(BATCH)]
    return batch_question([url_of(host, name) for name in names], names)


def killed_image_processes(seconds: float, *, in_turns: bool = False) -> list[Report]:
    """One image process after the other is killed while batches come: no item is lost, and none is wrong."""
    report = Report("image process killed")

    async def kill(pod: PodProcess, host: str) -> int:
        load = background_load(pod.base_url, report.tally, clients=4, questions=lambda: batch_of(picture_url, host))
        killed, until = 0, for_seconds(seconds)
        async with load:
            while not until():
                await asyncio.sleep(0.3)
                for pid in sorted(image_processes(pod))[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    with image_host() as host, _pod(in_turns=in_turns) as pod:
        before = lasting_processes(pod)
        with probed(pod.base_url, pod.process.pid, path="/livez") as report.vitals:
            killed = asyncio.run(kill(pod, host))
        report.require("nobody but image processes has ended", before <= lasting_processes(pod))
    report.notes = [f"{killed} killed", f"{report.tally.accepted * BATCH} images"]
    report.require_all_answered()
    report.require("some were killed", killed > 0)
    report.require("no item failed", not report.tally.codes)
    return [report]


def slow_host(seconds: float, *, in_turns: bool = False, batches: int = 8) -> list[Report]:
    """Batches from a host that answers after three seconds, beside quick single images."""
    alone, beside, slow = Report("quick images alone"), Report("beside a slow host"), Tally()

    async def both(pod: PodProcess, late_host: str, quick_host: str) -> None:
        await _good_load(pod, alone.tally, quick_host, for_seconds(seconds))
        load = background_load(pod.base_url, slow, clients=batches, questions=lambda: batch_of(late_url, late_host))
        async with load:
            await asyncio.sleep(0.5)
            await _good_load(pod, beside.tally, quick_host, for_seconds(seconds))

    with image_host() as late, image_host() as quick, _pod(in_turns=in_turns) as pod:
        before = lasting_processes(pod)
        with probed(pod.base_url, pod.process.pid, path="/livez") as beside.vitals:
            run(both(pod, late, quick))
        beside.require("nobody has ended", before <= lasting_processes(pod))
    p50s_ms = [percentile(report.tally.answers_ms, 50) for report in (alone, beside)]
    beside.notes = [f"p50 {p50s_ms[1]:.0f} ms, alone {p50s_ms[0]:.0f}", f"{slow.accepted} slow batches"]
    for report in (alone, beside):
        report.require_all_answered()
        report.require("no quick image failed", not report.tally.codes)
    beside.require("every slow image came", slow.accepted > 0 and not slow.codes and not slow.wrong and not slow.lost)
    beside.require(Speed("p50 within twice of that alone"), p50s_ms[1] <= 2 * p50s_ms[0])
    return [alone, beside]


def _pod(settings: Mapping[str, str] | None = None, *, in_turns: bool) -> AbstractContextManager[PodProcess]:
    return chaos_pod({**_SETTINGS, **(_IN_TURNS if in_turns else {}), **(settings or {})})


def image_processes(pod: PodProcess) -> set[int]:
    return {process.pid for process in _descendants(pod) if "core.images.child" in _command(process)}


def lasting_processes(pod: PodProcess) -> set[int]:
    """All of the pod's but its image processes: none of these ends because of an image."""
    return {process.pid for process in _descendants(pod)} - image_processes(pod) | {pod.process.pid}


def _descendants(pod: PodProcess) -> Sequence[psutil.Process]:
    return psutil.Process(pod.process.pid).children(recursive=True)


def _command(process: psutil.Process) -> str:
    """What it was started as; nothing for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
