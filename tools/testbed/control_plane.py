"""A small RunPod on loopback: the queue that clients call over REST, and the channel that the SDK's loop polls.

Both sides speak HTTP as the platform does, so a real client and a real handler meet here with nothing in between
replaced. What only the platform has (workers coming and going, billing, rate limits) is left out.
"""

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tools.testbed.loopback import QuietHandler, base_url, serving

ENDPOINT_ID = "test-endpoint"
API_KEY = "test-api-key"
WORKER_ID = "test-worker"

# The platform holds a poll open for a minute and more; here a stopping worker should not have to wait for that.
_POLL_S = 0.2
_RUNSYNC_WAIT_S = 20.0


@dataclass(slots=True)
class Job:
    """One job: `result` is what the worker posted."""

    id: str
    input: Any
    taken: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    result: dict[str, Any] = field(default_factory=dict)
    posts: int = 0

    def status(self) -> dict[str, Any]:
        """The body of `/status/{id}`."""
        if not self.done.is_set():
            return {"id": self.id, "status": "IN_PROGRESS" if self.taken else "IN_QUEUE"}
        if "error" in self.result:
            return {"id": self.id, "status": "FAILED", "error": self.result["error"]}
        return {"id": self.id, "status": "COMPLETED", "output": self.result.get("output")}


class ControlPlane:
    """Thread-safe. `base_url` is what a client has as RUNPOD_BASE_URL."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.poll_s = self.stop_poll_s = _POLL_S
        self.runsync_wait_s = _RUNSYNC_WAIT_S
        self.polls = 0
        self.is_down = False
        self.asked = 0
        self.jobs: dict[str, Job] = {}
        self.pings = 0
        self._queue: deque[Job] = deque()
        self._to_stop: deque[str] = deque()
        self._changed = threading.Condition()
        self._numbers = itertools.count()

    def submit(self, job_input: Any) -> Job:  # noqa: ANN401 - clients may send anything
        """Queue a job."""
        with self._changed:
            job = Job(f"job-{next(self._numbers)}", job_input)
            self.jobs[job.id] = job
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def run(self, job_input: Any, *, timeout_s: float = 60.0) -> dict[str, Any]:  # noqa: ANN401
        """Queue a job, wait for its end and return its status body."""
        job = self.submit(job_input)
        assert job.done.wait(timeout_s), f"{job.id} was not answered"
        return job.status()

    @contextmanager
    def submitting(self, make: Callable[[], Any], *, waiting: int = 20) -> Iterator[None]:
        """Keep `waiting` jobs in the queue until the block ends."""
        ended = threading.Event()

        def submit() -> None:
            while not ended.wait(0.005):
                while len(self._queue) < waiting:
                    self.submit(make())

        thread = threading.Thread(target=submit)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def wait_for_answers(self, count: int, *, timeout_s: float = 60.0) -> None:
        """Wait until so many jobs are answered."""
        until_s = time.monotonic() + timeout_s
        while sum(job.done.is_set() for job in list(self.jobs.values())) < count:
            assert time.monotonic() < until_s, "too few answers"
            time.sleep(0.02)

    def stop(self, job: Job) -> None:
        """Ask the worker to stop a running job, as the platform does on a cancel."""
        with self._changed:
            self._to_stop.append(job.id)
            self._changed.notify_all()

    def take(self, count: int) -> list[Job]:
        """What a worker's poll gets: up to `count` jobs, after a short wait for the first."""
        with self._changed:
            self.polls += 1
            self._changed.wait_for(lambda: self._queue, timeout=self.poll_s)
            taken = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
        for job in taken:
            job.taken = True
        return taken

    def take_stops(self) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: self._to_stop, timeout=self.stop_poll_s)
            stops = list(self._to_stop)
            self._to_stop.clear()
        return stops

    def finish(self, job_id: str, result: dict[str, Any]) -> None:
        job = self.jobs[job_id]
        job.posts += 1
        job.result = result
        job.done.set()

    def worker_environment(self) -> dict[str, str]:
        """What the platform sets in a worker's container."""
        worker = f"{self.base_url}/{ENDPOINT_ID}"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{worker}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{worker}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{worker}/ping/$RUNPOD_POD_ID?gpu=none",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_AI_API_KEY": API_KEY,
            "RUNPOD_POD_ID": WORKER_ID,
            "RUNPOD_ENDPOINT_ID": ENDPOINT_ID,
            # They ask for the internet and for free disk; ours is registered beside them and runs.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """Run a control plane on a free port of loopback until the block ends."""
    with serving(_Handler) as httpd:
        plane = ControlPlane(base_url(httpd) + "/v2")
        httpd.plane = plane  # type: ignore[attr-defined]
        yield plane


class _Handler(QuietHandler):
    def do_GET(self) -> None:
        plane, (operation, *rest), query = self._parts()
        if plane.is_down and operation.startswith("job-"):
            plane.polls += operation.startswith("job-take")
            self._answer({"error": "bad gateway"}, 502)
            return
        match operation:
            case "job-take":
                jobs = plane.take(1)
                self._answer(_for_worker(jobs[0]) if jobs else None)
            case "job-take-batch":
                jobs = plane.take(int(query["batch_size"][0]))
                self._answer([_for_worker(job) for job in jobs] or None)
            case "job-stop":
                stops = plane.take_stops()
                self._answer({"jobsToStop": stops} if stops else None)
            case "ping":
                plane.pings += 1
                self._answer({})
            case "status":
                plane.asked += 1
                self._as_client(lambda: plane.jobs[rest[0]].status())
            case "openai":
                self._as_client(lambda: _openai(plane, "/" + "/".join(rest), {}))
            case _:
                self._answer({"error": "not found"}, 404)

    def do_POST(self) -> None:
        plane, (operation, *rest), query = self._parts()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        match operation:
            case "job-done":
                plane.finish(rest[1], body)
                self._answer({})
            case "runsync":
                wait_s = int(query["wait"][0]) / 1000 if "wait" in query else plane.runsync_wait_s
                self._as_client(lambda: _wait(plane.submit(body["input"]), min(wait_s, plane.runsync_wait_s)))
            case "openai":
                self._as_client(lambda: _openai(plane, "/" + "/".join(rest), body))
            case "cancel":
                plane.stop(plane.jobs[rest[0]])
                self._answer({"id": rest[0], "status": "CANCELLED"})
            case _:
                self._answer({"error": "not found"}, 404)

    def _parts(self) -> tuple[ControlPlane, list[str], dict[str, list[str]]]:
        url = urlsplit(self.path)
        plane: ControlPlane = self.server.plane  # type: ignore[attr-defined]
        # /v2/{endpoint}/{operation}/...
        return plane, url.path.split("/")[3:], parse_qs(url.query)

    def _as_client(self, answer: Any) -> None:  # noqa: ANN401
        if self.headers.get("Authorization") != f"Bearer {API_KEY}":
            self._answer({"error": "unauthorized"}, 401)
            return
        self._answer(answer())

    def _answer(self, body: Any, status: int = 200) -> None:  # noqa: ANN401
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status if data else 204)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _for_worker(job: Job) -> dict[str, Any]:
    return {"id": job.id, "input": job.input, "webhook": None}


def _openai(plane: ControlPlane, route: str, body: Any) -> Any:  # noqa: ANN401 - as it was sent and answered
    """What the platform makes of a request to `/openai/…`: a job, and its output as the answer."""
    return _wait(plane.submit({"openai_route": route, "openai_input": body}), plane.runsync_wait_s)["output"]


def _wait(job: Job, wait_s: float) -> dict[str, Any]:
    job.done.wait(wait_s)
    return job.status()
