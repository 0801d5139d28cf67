"""The image processes together: who gets which image, and what becomes of it when its process ends.

- An image whose decode takes longer than `budget_s` of processor time ends with its process, and is `InvalidImage`.
- An image whose process dies while it is decoded is tried once more; the second time it is `InvalidImage`.
- An image that will take long, by its head, goes to processes that are for those and have only what time nobody else
  wants; they are started when the first one comes.
- One that decodes for longer than `SLOW_S` gets no other work, and only what time nobody else wants; what else it had
  begins again elsewhere, and a fresh process takes its place. So a slow image costs itself and no other.
- Whatever else was in a process that ended begins again elsewhere.
- What waits for a process that ends before it is ready waits for another one; after too many in a row it is `NotReady`.
  Where those were for slow images, so are the slow images that wait, and nothing else.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from core import metrics
from core.averages import moving_average
from core.errors import InvalidImage, NotReady, Overloaded, ServiceError, StartError
from core.images.arena import Decoding
from core.images.job import ImageJob, Listener
from core.images.messages import DECODE, ENDED, FETCHED, FORGET, READY, SLOW, WORK, ChildSettings, Garbled, Report
from core.images.process import PROGRAM, START_WITHIN_S, Exit, ImageProcess, Ticket
from core.images.starts import Starts
from core.metrics import Reading

logger = logging.getLogger(__name__)

# A photograph of 50 megapixels takes less.
SLOW_S = 0.5

# No image is slow to a process that is for slow ones. JSON has no infinity.
_NEVER_S = 1e9

# A request's images go to one process in portions of at least this many: a message costs more than an image.
_LEAST_PART = 4

# A process may be killed by somebody else while it decodes; twice in a row with the same image is that image's fault.
_MAX_CRASHES = 2

# How much the newest decode says about the next one's time.
_NEWEST = 0.05


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Images that have arrived and wait for a decoder of their own accord, and about how long until all are decoded."""

    images: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Where an image is at present."""

    process: ImageProcess
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class _Unassigned:
    """Images of one request that are in no process of their kind yet."""

    jobs: list[ImageJob]
    at_once: int
    slow: bool


@dataclass(frozen=True, slots=True)
class _Message:
    """What a process is told, a descriptor that goes along, and the tickets that it learns of."""

    process: ImageProcess
    content: list[Any]
    descriptor: int | None = None
    tickets: Sequence[Ticket] = ()


@dataclass(frozen=True, slots=True)
class _News:
    """What is to be said once the lock is free: to processes, and to the listener, who hears of those that are
    `delayed` before they are `begun_again`: or else what is fetched then could come first.
    """

    messages: list[_Message] = field(default_factory=list)
    delayed: list[ImageJob] = field(default_factory=list)
    ended: list[ImageJob] = field(default_factory=list)
    begun_again: list[_Unassigned] = field(default_factory=list)


class ImageProcesses:
    """Thread-safe. `start` first; the `listener` is told what becomes of the jobs that `begin` takes.

    `program` is the module that a process runs.
    """

    def __init__(
        self,
        settings: ChildSettings,
        listener: Listener,
        *,
        processes: int,
        budget_s: float,
        program: str = PROGRAM,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._wanted = processes
        self._most_slow = max(1, processes // 2)
        self._most = {False: self._wanted, True: self._most_slow}
        self._budget_s = budget_s
        self._program = program
        self._changed = threading.Condition()
        self._processes: list[ImageProcess] = []
        # None while it waits for a process.
        self._attempts: dict[ImageJob, _Attempt | None] = {}
        self._crashes: Counter[ImageJob] = Counter()
        self._unassigned: list[_Unassigned] = []
        self._numbers = count(1)
        # Here and below by whether they are for slow images.
        self._starts = {slow: Starts(most) for slow, most in self._most.items()}
        self._usual_decode_s = dict.fromkeys((False, True), 0.0)
        # Those that could not even begin, until they are tried again.
        self._unstarted: list[bool] = []
        self._starter = threading.Thread(target=self._start_what_could_not, name="image-processes", daemon=True)
        self._exits = dict.fromkeys(Exit, 0)
        self._closing = False

    @property
    def healthy(self) -> bool:
        """Whether those for ordinary images can still be started."""
        return not self._starts[False].given_up

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [process.pid for process in list(self._processes) if process.pid is not None]

    @property
    def undecoded(self) -> Undecoded:
        """Where decodes take turns, what waits for one is the scheduler's to count: here it is only what is slow. And
        what is in a process that was left alone with a slow image has begun again elsewhere.
        """
        images, seconds = 0, 0.0
        for process in list(self._processes):
            if not process.detached and (process.slow or not self._settings.in_turns):
                waiting = process.arena.waiting
                images += waiting
                seconds += waiting * self._usual_decode_s[process.slow] / self._most[process.slow]
        return Undecoded(images, seconds)

    def readings(self) -> Iterator[Reading]:
        """How many run, and why others have ended, for metrics."""
        yield Reading(metrics.IMAGE_PROCESSES, (), len(self.pids))
        yield from metrics.by_label(
            metrics.IMAGE_PROCESS_EXITS, {reason.value: count for reason, count in self._exits.items()}
        )

    def start(self) -> None:
        """Start them; they become ready on their own."""
        try:
            self._starter.start()
        except RuntimeError as error:
            raise StartError(f"image processes: {error}") from error
        with self._changed:
            for _ in range(self._wanted):
                self._add_process()

    def wait_until_ready(self) -> None:
        """Raises `StartError` when one of them does not come up."""
        with self._changed:
            self._changed.wait_for(lambda: self._starts[False].dead or self._all_ready(), START_WITHIN_S)
            if self._starts[False].dead or not self._all_ready():
                raise StartError("an image process does not start: see the log above")

    def begin(self, jobs: Sequence[ImageJob], *, at_once: int) -> None:
        """Download, what was not sent, and decode; `at_once` is how many of these downloads may be under way."""
        news = _News()
        with self._changed:
            self._attempts.update(dict.fromkeys(jobs))
            self._assign(list(jobs), at_once, news)
        self._tell(news)

    def decode(self, job: ImageJob) -> None:
        """It is this one's turn: see `Listener.fetched`."""
        with self._changed:
            attempt = self._attempts.get(job)
        if attempt is not None:
            attempt.process.send([DECODE, attempt.ticket.job_id])

    def release(self, jobs: Iterable[ImageJob]) -> None:
        """Nobody wants these any more: their pixels may be overwritten, and what is under way need not be."""
        with self._changed:
            parts = {part for job in jobs if (part := self._drop(job)) is not None}
        self._tell(_News([_Message(process, [FORGET, number]) for process, number in parts]))

    def close(self) -> None:
        """End them all; nobody is told anything any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            processes = list(self._processes)
        for process in processes:
            process.close()
        for process in processes:
            process.join()
        if self._starter.is_alive():
            self._starter.join()

    # From here on the threads of the processes call.

    def heard(self, process: ImageProcess, message: list[Any]) -> None:
        """See `Owner`."""
        kind, *content = message
        news = _News()
        with self._changed:
            if kind == ENDED:
                news.ended.extend(job for report in content if (job := self._settle(process, report)) is not None)
            elif kind == FETCHED:
                fetched = [job for report in content if (job := self._note_fetched(process, report)) is not None]
            elif kind == SLOW:
                self._give_to_slow(process, content, news)
            elif kind == READY:
                self._note_ready(process, news)
            else:
                raise Garbled
        if kind == FETCHED:
            self._listener.fetched(fetched)
        self._tell(news)
        if process.detached and not process.tickets:
            process.close()

    def looked(self, process: ImageProcess, decoding: Decoding, used_s: float) -> None:
        """See `Owner`."""
        if used_s < SLOW_S:
            return
        news = _News()
        with self._changed:
            ticket = process.tickets.get(decoding.job_id)
            if ticket is None:
                return
            if ticket.void:
                # It is not worth another second: nobody waits for it.
                process.kill(Exit.UNWANTED)
            elif used_s > self._budget_s:
                text = f"decoding the image takes more than {self._budget_s:g} seconds of processor time"
                process.end(ticket.job_id, InvalidImage(text), Exit.TIME)
            elif not process.detached and not process.slow:
                self._detach(process, ticket, news)
        self._tell(news)

    def died(self, process: ImageProcess) -> None:
        """See `Owner`."""
        news = _News()
        with self._changed:
            self._processes.remove(process)
            self._changed.notify_all()
            if self._closing:
                return
            self._exits[process.exit] += 1
            if not process.ready:
                self._starts[process.slow].note(ready=False)
            if not process.detached and not process.slow and self.healthy:
                self._add_process()
            self._begin_again(process, news)
            # They have waited for this one to be ready, or for one that nobody starts any more.
            self._assign_waiting(news)
        fields = {"reason": process.exit.value, "images_begun_again": len(news.delayed)}
        logger.warning("an image process has ended", extra=fields)
        self._tell(news)

    def _all_ready(self) -> bool:
        return all(process.ready for process in self._processes if not process.slow)

    def _add_process(self, *, slow: bool = False, at_once: bool = False) -> None:
        """Where it cannot even begin, for want of threads or descriptors, it is tried again as one that has died is."""
        settings = replace(self._settings, slow_s=_NEVER_S, in_turns=False) if slow else self._settings
        starts = self._starts[slow]
        try:
            process = ImageProcess(settings, self, self._program, slow=slow)
            process.start(delay_s=0.0 if at_once else starts.delay_s)
        except (OSError, RuntimeError):
            logger.exception("an image process cannot begin")
            starts.note(ready=False)
            self._unstarted.append(slow)
            self._changed.notify_all()
            return
        self._processes.append(process)

    def _start_what_could_not(self) -> None:
        """On a thread that is there already: it may be threads that are wanting."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._unstarted)
                if self._closing:
                    return
                slow = self._unstarted[0]
                if self._changed.wait_for(lambda: self._closing, self._starts[slow].delay_s):
                    return
                if slow not in self._unstarted:
                    # Those that waited for it have been told, meanwhile, that there will be none.
                    continue
                news = _News()
                self._unstarted.remove(slow)
                if not self._starts[slow].given_up:
                    self._add_process(slow=slow, at_once=True)
                if self._starts[slow].given_up:
                    self._assign_waiting(news)
            self._tell(news)

    def _note_ready(self, process: ImageProcess, news: _News) -> None:
        process.ready = True
        self._starts[process.slow].note(ready=True)
        if process.slow:
            process.give_way()
        self._assign_waiting(news)
        self._changed.notify_all()

    def _assign_waiting(self, news: _News) -> None:
        waiting, self._unassigned = self._unassigned, []
        self._assign_all(waiting, news)
        if self._starts[True].given_up:
            # Whoever waited has been told. The next slow image is tried anew: everything else goes on meanwhile.
            self._starts[True] = Starts(self._most_slow)
            self._unstarted = [slow for slow in self._unstarted if not slow]

    def _assign_all(self, unassigned: Iterable[_Unassigned], news: _News) -> None:
        for waiting in unassigned:
            if wanted := [job for job in waiting.jobs if job in self._attempts]:
                self._assign(wanted, waiting.at_once, news, slow=waiting.slow)

    def _assign(self, jobs: list[ImageJob], at_once: int, news: _News, *, slow: bool = False) -> None:
        """Share jobs of one request out among the least busy processes; while none is ready they wait for one."""
        of_kind = [process for process in self._processes if process.slow is slow and not process.detached]
        if slow and self._may_add_slow(of_kind):
            self._add_process(slow=True)
        free = sorted((process for process in of_kind if process.ready), key=lambda process: len(process.tickets))
        if not free and (self._starts[slow].given_up or not self.healthy):
            self._refuse(jobs, NotReady, news)
            return
        if not free:
            self._unassigned.append(_Unassigned(jobs, at_once, slow))
            return
        parts = min(len(free), -(-len(jobs) // _LEAST_PART))
        if any(job.content is None for job in jobs):
            # Each part may download one at least.
            parts = min(parts, at_once)
        for index, process in enumerate(free[:parts]):
            self._hand_over(process, jobs[index::parts], _share(at_once, parts, index), news)

    def _may_add_slow(self, there: Sequence[ImageProcess]) -> bool:
        if not self.healthy or self._starts[True].given_up or True in self._unstarted:
            return False
        return len(there) < self._most_slow and all(process.tickets for process in there)

    def _hand_over(self, process: ImageProcess, jobs: list[ImageJob], at_once: int, news: _News) -> None:
        sent = next((job.content.file for job in jobs if job.content is not None), None)
        try:
            # One for all of them, which came with one request. A copy: that may end before the message has gone.
            descriptor = None if sent is None else sent.duplicate()
        except OSError:
            self._refuse(jobs, Overloaded, news)
            return
        part = next(self._numbers)
        tickets: list[Ticket] = []
        images: list[tuple[int, int, str | tuple[int, int]]] = []
        for job in jobs:
            slot = process.slots.take()
            if slot is None:
                # Only after very many requests that were given up a moment ago.
                self._refuse([job], Overloaded, news)
                continue
            ticket = Ticket(next(self._numbers), part, slot, job)
            process.tickets[ticket.job_id] = ticket
            tickets.append(ticket)
            self._attempts[job] = _Attempt(process, ticket)
            source = job.url if job.content is None else (job.content.offset, job.content.size)
            images.append((ticket.job_id, slot, source))
        if descriptor is not None and all(isinstance(source, str) for *_, source in images):
            os.close(descriptor)
            descriptor = None
        if images:
            timeout_ms = min(job.deadline.remaining_s() for job in jobs) * 1000
            news.messages.append(_Message(process, [WORK, part, at_once, timeout_ms, images], descriptor, tickets))

    def _refuse(self, jobs: Iterable[ImageJob], why: type[ServiceError], news: _News) -> None:
        for job in jobs:
            job.error = why()
            del self._attempts[job]
            news.ended.append(job)

    def _give_to_slow(self, process: ImageProcess, job_ids: list[Any], news: _News) -> None:
        """These were handed back: decoding them will take long."""
        for job_id in job_ids:
            ticket = _ticket_of(process, job_id)
            del process.tickets[ticket.job_id]
            process.slots.give_back(ticket.slot)
            if not ticket.void:
                self._attempts[ticket.job] = None
                self._assign([ticket.job], 1, news, slow=True)

    def _note_fetched(self, process: ImageProcess, content: object) -> ImageJob | None:
        """Take one report; None if nobody waits for it."""
        report = Report.parse(content)
        ticket = _ticket_of(process, report.job_id)
        if ticket.void:
            return None
        self._note(ticket.job, report)
        return ticket.job

    def _settle(self, process: ImageProcess, content: object) -> ImageJob | None:
        """Take one report; None if nobody waits for it."""
        report = Report.parse(content)
        ticket = _ticket_of(process, report.job_id)
        del process.tickets[report.job_id]
        ticket.reported = True
        if ticket.void:
            process.slots.give_back(ticket.slot)
            return None
        job = ticket.job
        job.error, job.decode_began_s, job.decode_ms = report.error, report.decode_began_s, report.decode_ms
        self._note(job, report)
        if report.error is None:
            job.pixels = process.arena.slots[ticket.slot]
            self._note_decode(process, report.decode_ms / 1000)
        return job

    def _note_decode(self, process: ImageProcess, seconds: float) -> None:
        if not process.detached:
            usual_s = self._usual_decode_s[process.slow]
            self._usual_decode_s[process.slow] = moving_average(usual_s, seconds, newest=_NEWEST)

    def _note(self, job: ImageJob, report: Report) -> None:
        job.download_began_s, job.download_ms = report.download_began_s, report.download_ms
        if job.content is not None or report.error is not None:
            # Of what was sent the service knows the hash by itself.
            return
        if self._settings.hashes != bool(report.sha256):
            raise Garbled
        job.sha256 = report.sha256

    def _drop(self, job: ImageJob) -> tuple[ImageProcess, int] | None:
        """Free what the job holds; the part to forget, if a process is still busy with it."""
        self._crashes.pop(job, None)
        attempt = self._attempts.pop(job, None)
        if attempt is None:
            return None
        process, ticket = attempt.process, attempt.ticket
        ticket.void = True
        if ticket.reported:
            process.slots.give_back(ticket.slot)
            return None
        return process, ticket.part

    def _detach(self, process: ImageProcess, slow: Ticket, news: _News) -> None:
        """Leave it alone with its slow image; the rest begins again elsewhere, a fresh process included."""
        logger.warning("an image takes long to decode", extra={"pid": process.pid})
        process.detached = slow.job.slow = True
        process.give_way()
        parts = {ticket.part for ticket in process.tickets.values()}
        news.messages.extend(_Message(process, [FORGET, part]) for part in parts)
        news.delayed.append(slow.job)
        self._add_process()
        self._move(process, [ticket for ticket in process.tickets.values() if ticket is not slow], news)
        detached = [other for other in self._processes if other.detached]
        if len(detached) > self._wanted:
            self._give_up(detached[0])

    def _give_up(self, process: ImageProcess) -> None:
        """End one that was left alone with its slow image; if that is done already, it ends by itself."""
        for ticket in process.tickets.values():
            if not ticket.void:
                verdict = Overloaded("too many images take long to decode at the same time")
                process.end(ticket.job_id, verdict, Exit.CROWDED)

    def _begin_again(self, process: ImageProcess, news: _News) -> None:
        """After its end: judge the image that was being decoded, and begin the others elsewhere."""
        decoding = process.arena.decoding
        guilty = process.tickets.pop(decoding.job_id, None) if decoding else None
        if guilty is not None and not guilty.void:
            guilty.job.error = self._judge(process, guilty)
            if guilty.job.error is None:
                self._move(process, [guilty], news)
            else:
                del self._attempts[guilty.job]
                news.ended.append(guilty.job)
        self._move(process, list(process.tickets.values()), news)

    def _judge(self, process: ImageProcess, guilty: Ticket) -> ServiceError | None:
        """What becomes of the image that was decoded when its process ended; None gives it another try."""
        if guilty.job_id in process.verdicts:
            return process.verdicts[guilty.job_id]
        self._crashes[guilty.job] += 1
        return InvalidImage("the image makes its decoder crash") if self._crashes[guilty.job] >= _MAX_CRASHES else None

    def _move(self, process: ImageProcess, tickets: list[Ticket], news: _News) -> None:
        """Begin them elsewhere, each request's apart: a part has one deadline, and is forgotten as a whole."""
        parts: dict[int, list[ImageJob]] = {}
        for ticket in tickets:
            if not ticket.void:
                parts.setdefault(ticket.part, []).append(ticket.job)
            ticket.void = True
        for jobs in parts.values():
            for job in jobs:
                job.slow = False
                self._attempts[job] = None
            news.delayed.extend(jobs)
            news.begun_again.append(_Unassigned(jobs, len(jobs), process.slow))

    def _tell(self, news: _News) -> None:
        """Without the lock: the listener has one of its own, and a socket may be full."""
        if news.delayed:
            self._listener.delayed(news.delayed)
        if news.ended:
            self._listener.ended(news.ended)
        for message in news.messages:
            message.process.send(message.content, message.descriptor)
        self._forget_what_was_overtaken(news.messages)
        if news.begun_again:
            self._tell(self._begin_elsewhere(news.begun_again))

    def _forget_what_was_overtaken(self, messages: Iterable[_Message]) -> None:
        """What was given up after a message was made may have been forgotten before that was sent, by a process that
        did not know of it yet: there it would wait for a turn that nobody gives it.
        """
        with self._changed:
            overtaken = {
                (message.process, ticket.part)
                for message in messages
                for ticket in message.tickets
                if ticket.void and not ticket.reported
            }
        for process, part in overtaken:
            process.send([FORGET, part])

    def _begin_elsewhere(self, moved: Iterable[_Unassigned]) -> _News:
        news = _News()
        with self._changed:
            if not self._closing:
                self._assign_all(moved, news)
        return news


def _share(whole: int, parts: int, index: int) -> int:
    """Of `whole` in as equal parts as may be; one at least, for what is not downloaded."""
    return max(1, whole * (index + 1) // parts - whole * index // parts)


def _ticket_of(process: ImageProcess, job_id: object) -> Ticket:
    ticket = process.tickets.get(job_id) if isinstance(job_id, int) else None
    if ticket is None:
        raise Garbled
    return ticket
