"""One image process as the service sees it: its start, its socket, its memory, what it has been given, its end."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from core.errors import ServiceError
from core.images.arena import Arena, Decoding, FreeSlots
from core.images.job import ImageJob
from core.images.messages import ChildSettings, Garbled, Inbox, frame

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]

# Isolated (-I): no PYTHON* variable and no user's packages; so the place of this code has to be told.
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {program} import main; main(sys.argv[1:])"
PROGRAM = "core.images.child"

# All that an image process may know of the environment: where certificates and libraries are, how names are looked up.
_PASSED_ON = ("SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "TZ", "RES_OPTIONS")
OWN_ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Each thread's own arena of memory would count against the limit, and there are many threads.
    "MALLOC_ARENA_MAX": "2",
    # A decode takes the same few blocks of memory again and again. The C library would give each back to the kernel and
    # have it zeroed anew, page by page: half of a thumbnail's time. Larger ones than these go back as before.
    "MALLOC_MMAP_THRESHOLD_": "16777216",
    "MALLOC_TRIM_THRESHOLD_": "67108864",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

# One that needs longer will never be ready.
START_WITHIN_S = 60.0

# How often the processor time of a decode is looked at.
_LOOK_S = 0.1

# A process that does not read for that long has stopped; its work begins again elsewhere.
_SEND_TIMEOUT_S = 5.0

_CLOSE_TIMEOUT_S = 2.0

_LOWEST_PRIORITY = 19


class Exit(Enum):
    """Why an image process has ended, while the service goes on."""

    START = "start"
    """It never became ready."""
    TIME = "time"
    """Its image took more processor time than one may."""
    CROWDED = "crowded"
    """Its image took long, as did too many others."""
    UNWANTED = "unwanted"
    """Its image took long, and nobody waited for it any more."""
    FINISHED = "finished"
    """It was left alone with an image that took long, and is done."""
    STUCK = "stuck"
    """It did not read what it was told."""
    GARBLED = "garbled"
    """It said what none would say."""
    KILLED = "killed"
    """By somebody else: as good as always by the kernel, which takes image processes first when memory runs out."""
    CRASH = "crash"
    """Of a decoder, as a rule."""
    FAULT = "fault"
    """It met what nobody had foreseen, its limit on memory outside of a decode for one."""

    @classmethod
    def of(cls, status: int) -> "Exit":
        """By what `Popen.returncode` says of one that had been ready, and that nobody here has ended."""
        if status == 0:
            return cls.FINISHED
        if status == -signal.SIGKILL:
            return cls.KILLED
        return cls.CRASH if status < 0 else cls.FAULT


@dataclass(slots=True, eq=False)
class Ticket:
    """One attempt at an image in one process. `void`: what becomes of it matters to nobody, but its slot is in use
    until the process has `reported`.
    """

    job_id: int
    part: int
    slot: int
    job: ImageJob
    void: bool = False
    reported: bool = False


class Owner(Protocol):
    """Who is told, on the process's own thread, what it says and how it ends."""

    def heard(self, process: "ImageProcess", message: list[Any]) -> None:
        """Raises `Garbled` for what no image process would say."""

    def looked(self, process: "ImageProcess", decoding: Decoding, used_s: float) -> None:
        """It is decoding that, and has used so much processor time for it."""

    def died(self, process: "ImageProcess") -> None:
        """It is gone, and takes nothing any more."""


class ImageProcess:
    """Starts with `start`. `tickets`, `slots` and the flags belong to the owner's lock, the rest to its own thread."""

    def __init__(self, settings: ChildSettings, owner: Owner, program: str = PROGRAM, *, slow: bool = False) -> None:
        self.tickets: dict[int, Ticket] = {}
        self.slots = FreeSlots(settings.slots)
        self.ready = False
        self.detached = False
        self.slow = slow
        """Whether it is for images that take long, and gives way to everything else."""
        self.verdicts: dict[int, ServiceError] = {}
        """What becomes of the image for which it was ended, if that is still being decoded then."""
        self._settings = settings
        self._program = program
        self._owner = owner
        with ExitStack() as made:
            # What the process has of its own as soon as it runs.
            self._given = made.enter_context(ExitStack())
            self._descriptor = Arena.create(size_px=settings.size_px, slots=settings.slots)
            self._given.callback(os.close, self._descriptor)
            self.arena = Arena(self._descriptor, size_px=settings.size_px, slots=settings.slots)
            self._sock, self._other_end = socket.socketpair()
            made.enter_context(self._sock).settimeout(_LOOK_S)
            self._given.enter_context(self._other_end)
            # A socket object of its own: a send has another patience than the loop that reads.
            self._writer = made.enter_context(self._sock.dup())
            self._writer.settimeout(_SEND_TIMEOUT_S)
            self._made = made.pop_all()
        self._sending = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._killed_for: Exit | None = None
        # One thread from its start to its end: the kernel ends an image process with the thread that started it.
        self._delay_s = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, name="image-process", daemon=True)

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen else None

    @property
    def exit(self) -> Exit:
        """Why it has ended; once it has."""
        if self._popen is None or not self.ready:
            return Exit.START
        status = self._popen.wait()
        # Or else it has crashed before it could be killed.
        is_killed = status == -signal.SIGKILL
        return self._killed_for if is_killed and self._killed_for is not None else Exit.of(status)

    def start(self, delay_s: float = 0.0) -> None:
        """Start it on a thread of its own, after `delay_s`. Raises `RuntimeError` when there are none left."""
        self._delay_s = delay_s
        try:
            self._thread.start()
        except RuntimeError:
            self._made.close()
            raise

    def send(self, message: list[Any], descriptor: int | None = None) -> None:
        """From any thread; a `descriptor` goes along, and is closed here. One that cannot take it is ended, and `died`
        says the rest.
        """
        data = frame(message)
        try:
            with self._sending:
                sent = 0 if descriptor is None else socket.send_fds(self._writer, [data], [descriptor])
                self._writer.sendall(data[sent:])
        except OSError:
            self.kill(Exit.STUCK)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def kill(self, why: Exit) -> None:
        """End it now. From any thread, also when it is gone already."""
        if self._popen is not None:
            self._killed_for = self._killed_for or why
            self._popen.kill()

    def end(self, job_id: int, verdict: ServiceError, why: Exit) -> None:
        """Kill it because of the image that it is decoding, whose error is the `verdict`."""
        self.verdicts[job_id] = verdict
        self.kill(why)

    def give_way(self) -> None:
        """Have it run only when nothing else wants the processor: for a decode that takes long."""
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), _LOWEST_PRIORITY)

    def close(self) -> None:
        """Let it end by itself."""
        self._closing.set()
        with suppress(OSError):
            self._writer.shutdown(socket.SHUT_WR)

    def join(self) -> None:
        """Wait for its end, which is forced when it takes too long."""
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self.kill(Exit.STUCK)
            self._thread.join()

    def _live(self) -> None:
        try:
            if not self._closing.wait(self._delay_s):
                self._spawn()
                self._listen()
        except (OSError, EOFError):
            # It has ended, or never begun: the owner decides what that means.
            pass
        except Garbled:
            logger.exception("an image process has said what none would say")
            self.kill(Exit.GARBLED)
        finally:
            self._end()
            self._owner.died(self)

    def _spawn(self) -> None:
        descriptors = (self._other_end.fileno(), self._descriptor)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | OWN_ENVIRONMENT
        self._popen = subprocess.Popen(  # noqa: S603 - this program, with numbers
            [
                sys.executable,
                "-I",
                "-c",
                _START.format(program=self._program),
                str(_ROOT),
                str(os.getpid()),
                *map(str, descriptors),
            ],
            pass_fds=descriptors,
            env=environment,
            stdin=subprocess.DEVNULL,
            # A group of its own: Ctrl-C in a terminal is for the service, which drains. Not a session: kernels share
            # time out between sessions first, and there `give_way` would give nothing.
            process_group=0,
        )
        self._given.close()
        self.send([asdict(self._settings)])

    def _listen(self) -> None:
        inbox = Inbox(self._sock)
        began_s = looked_s = time.monotonic()
        while True:
            try:
                for message in inbox.receive():
                    self._owner.heard(self, message)
            except TimeoutError:
                pass
            if time.monotonic() - looked_s >= _LOOK_S:
                looked_s = time.monotonic()
                self._look()
            if not self.ready and looked_s - began_s > START_WITHIN_S:
                self.kill(Exit.START)

    def _look(self) -> None:
        decoding = self.arena.decoding
        if decoding is None or self.pid is None:
            return
        self._owner.looked(self, decoding, (_cpu_ns(self.pid) - decoding.began_cpu_ns) / 1e9)

    def _end(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
        self._made.close()


def _cpu_ns(pid: int) -> int:
    """The processor time that a child of this process has used: its clock, by the number that clock_getcpuclockid
    would give it. Raises `OSError` when it is gone.
    """
    return time.clock_gettime_ns(((~pid) << 3) | 2)
