"""The handler under the SDK's production loop, against a control plane on loopback."""

import hashlib
import hmac
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.watchdog import FAULT_EXIT_STATUS
from shared_auth.canonical import legacy_message
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from tools.testbed.control_plane import ControlPlane, control_plane
from tools.testbed.image_server import ImageServer
from tools.testbed.process import EXIT_TIMEOUT_S, HANDLER, SECRET, TINY_MODEL, ServiceProcess, handler_process
from tools.testbed.target import signed_batch, signed_image, signed_text, signed_texts

SOON_S = 60.0
RED_CIRCLE = (TINY_MODEL / "examples" / "red-circle.png").read_bytes()


def text_job(text: str = "a red circle", **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"path": EMBED_TEXT, **signed_text(text, **fields)}


def code_of(status: dict[str, Any]) -> str:
    assert "FAILED" == status["status"]
    code: str = json.loads(status["error"])["code"]
    return code


@contextmanager
def own_handler(**settings: str) -> Iterator[tuple[ControlPlane, ServiceProcess]]:
    """A handler of the test's own, which it may end."""
    with control_plane() as plane, handler_process({**plane.worker_environment(), **settings}) as process:
        yield plane, process


def test_jobs_run_together_and_share_batches(plane: ControlPlane, handler: ServiceProcess) -> None:
    """64 jobs at once: all answered once, and the model sees several in one forward pass."""
    jobs = [plane.submit(text_job(f"number {number}")) for number in range(64)]
    answered = [job.done.wait(SOON_S) for job in jobs]
    sizes = [line["batch_size"] for line in handler.log_lines() if line["message"] == "batch"]

    assert [True] * 64 == answered
    assert {"COMPLETED"} == {job.status()["status"] for job in jobs}
    assert {1} == {job.posts for job in jobs}
    assert max(sizes) > 1


def test_failing_job_fails_alone(plane: ControlPlane, handler: ServiceProcess, images: ImageServer) -> None:
    """A refused job is FAILED with the error as JSON text; the jobs beside it are answered."""
    good = plane.submit(text_job())
    bad = plane.submit({"path": EMBED_IMAGE, **signed_image(images.base_url + "/missing.png")})
    also_good = plane.submit(text_job())

    assert all(job.done.wait(SOON_S) for job in (good, bad, also_good))
    assert ["COMPLETED", "COMPLETED"] == [job.status()["status"] for job in (good, also_good)]
    assert "DOWNLOAD_ERROR" == code_of(bad.status())


def test_cancelled_job_leaves_the_others(plane: ControlPlane, handler: ServiceProcess, images: ImageServer) -> None:
    """A job that the platform stops is not answered, and the worker goes on."""
    url, gate = images.add_gated("/gated-cancel.png", RED_CIRCLE)
    stopped = plane.submit({"path": EMBED_IMAGE, **signed_image(url)})
    gate.wait_for_request()
    plane.stop(stopped)
    handler.wait_for_log("Job stopped.")
    gate.open()

    assert "COMPLETED" == plane.run(text_job())["status"]
    assert not stopped.done.is_set()


def test_old_style_jobs(plane: ControlPlane, handler: ServiceProcess, images: ImageServer) -> None:
    """A job without a path is told by what it holds, and answered with the old name of the model too."""
    url = images.add("/old-style.png", RED_CIRCLE)

    outputs = [
        plane.run(job)["output"] for job in (signed_image(url), signed_batch([url]), signed_text("a red circle"))
    ]

    assert ["tiny-shapes"] * 3 == [output["model"] for output in outputs]
    assert ["tiny-shapes"] * 3 == [output["model_name"] for output in outputs]
    assert "model" not in plane.run(text_job())["output"]


def legacy_job(url: str) -> dict[str, Any]:
    ts = int(time.time())
    sig = hmac.new(SECRET.encode(), legacy_message(url, ts), hashlib.sha256).hexdigest()
    return {"image_url": url, "auth": {"ts": ts, "sig": sig}}


def test_old_signature_needs_the_flag(plane: ControlPlane, handler: ServiceProcess, images: ImageServer) -> None:
    """What old clients sign is refused by default, and accepted for single images with ACCEPT_LEGACY_SIGNATURES."""
    url = images.add("/legacy.png", RED_CIRCLE)
    batch = {"items": [{**legacy_job(url), "request_id": "a"}]}

    assert "AUTH_FAILED" == code_of(plane.run(legacy_job(url)))
    with own_handler(ACCEPT_LEGACY_SIGNATURES="1") as (own_plane, _):
        assert "COMPLETED" == own_plane.run(legacy_job(url))["status"]
        assert "COMPLETED" == own_plane.run({"path": EMBED_IMAGE, **signed_image(url)})["status"]
        assert "AUTH_FAILED" == code_of(own_plane.run(batch))


def test_signature_may_be_as_old_as_a_cold_start(plane: ControlPlane, handler: ServiceProcess) -> None:
    """Jobs wait in a queue: ten minutes are accepted, twenty are not."""
    assert "COMPLETED" == plane.run(text_job(age_s=600))["status"]
    assert "AUTH_EXPIRED" == code_of(plane.run(text_job(age_s=1200)))


def test_window_of_the_pod_bounds_jobs_where_it_is_set() -> None:
    """Who shortens the window means the handler too; ten minutes are then too old."""
    with own_handler(AUTH_TIME_WINDOW_SECONDS="60") as (plane, _):
        assert "COMPLETED" == plane.run(text_job(age_s=30))["status"]
        assert "AUTH_EXPIRED" == code_of(plane.run(text_job(age_s=600)))


def test_health_job(plane: ControlPlane, handler: ServiceProcess) -> None:
    """Health needs no signature and has the pod's form."""
    assert "ok" == plane.run({"path": "/health"})["output"]["status"]


def test_logs_hold_no_embedding_and_no_signature(plane: ControlPlane, handler: ServiceProcess) -> None:
    """The SDK would log whole outputs at its default level."""
    job = text_job()
    vector = plane.run(job)["output"]["embedding"]
    log = handler.log()

    assert str(vector[0]) not in log
    assert job["auth"]["sig"] not in log


def test_sigterm_answers_the_jobs_that_run(images: ImageServer) -> None:
    """What was taken is answered before the process ends with status 0."""
    url, gate = images.add_gated("/gated-term.png", RED_CIRCLE)
    with own_handler() as (plane, process):
        jobs = [plane.submit({"path": EMBED_IMAGE, **signed_image(url)}) for _ in range(4)]
        for _ in jobs:
            gate.wait_for_request()
        process.process.terminate()
        gate.open()
        status = process.wait_for_exit()

    assert 0 == status
    assert ["COMPLETED"] * 4 == [job.status()["status"] for job in jobs]


def test_sigterm_under_load_loses_no_job() -> None:
    """While jobs keep coming, each one that the worker has taken is answered before it ends."""
    with own_handler() as (plane, process), plane.submitting(text_job):
        plane.wait_for_answers(50)
        process.process.terminate()
        status = process.wait_for_exit()
        unanswered = [job.id for job in plane.jobs.values() if job.taken and not job.done.is_set()]

    assert (0, []) == (status, unanswered)


def test_sigterm_answers_what_the_last_poll_brings() -> None:
    """A job that arrives in the poll that is on its way when the worker is told to end is its job too."""
    with own_handler() as (plane, process):
        assert "COMPLETED" == plane.run(text_job())["status"]
        shortly_s, plane.poll_s = plane.poll_s, SOON_S
        polls = plane.polls
        while plane.polls == polls:
            time.sleep(0.01)
        process.process.terminate()
        # Longer than the SDK's loop takes to see that it is to end.
        time.sleep(0.5)
        job = plane.submit(text_job())
        # Whoever has not heard of the end yet asks once more.
        plane.poll_s = shortly_s
        status = process.wait_for_exit()

    assert (0, True) == (status, job.taken)
    assert "COMPLETED" == job.status()["status"]


def test_large_batch_is_answered_whole(images: ImageServer) -> None:
    """A big but allowed batch passes; its answer is checked against the platform's limit before it is returned."""
    urls = [f"{images.add('/many.png', RED_CIRCLE)}?{number}" for number in range(64)]
    with own_handler(MAX_BATCH_SIZE="64") as (plane, _):
        output = plane.run({"path": EMBED_IMAGE_BATCH, **signed_batch(urls)})["output"]

    assert 64 == len([result for result in output["results"] if "embedding" in result])


def test_end_does_not_wait_for_the_last_question_after_stops() -> None:
    """The platform holds that one open for a minute and more, and no job is left that it could stop."""
    with own_handler() as (plane, process):
        plane.stop_poll_s = 2 * EXIT_TIMEOUT_S
        job = plane.submit(text_job())
        assert job.done.wait(SOON_S)
        plane.stop(job)  # ends the short question, after which a long one follows
        process.wait_for_log("model ready")
        time.sleep(1.5)
        status = process.terminate()
        plane.stop(job)

    assert 0 == status


@pytest.fixture
def deep_json() -> Iterator[Any]:
    """A list in a list, and so on, as deep as platforms let through; this process can write it while the test runs."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(11_000)
    deep: list[Any] = []
    for _ in range(9_000):
        deep = [deep]
    yield deep
    sys.setrecursionlimit(usual)


def test_deep_job_fails_alone(deep_json: Any) -> None:  # noqa: ANN401 - any JSON
    """Jobs come several in one answer of the platform, which is read as a whole: the others are there, too."""
    with own_handler() as (plane, _):
        plane.run(text_job())
        plane.is_down = True
        before, deep, after = (plane.submit(job) for job in (text_job("1"), {"text": deep_json}, text_job("2")))
        plane.is_down = False
        plane.wait_for_answers(4)

    assert ["COMPLETED"] * 2 == [job.status()["status"] for job in (before, after)]
    assert "VALIDATION_ERROR" == code_of(deep.status())


def test_platform_that_cannot_be_reached_is_asked_now_and_then() -> None:
    """The SDK alone asks some hundred times a second, and writes a line each time."""
    with own_handler() as (plane, process):
        plane.run(text_job())
        plane.is_down = True
        time.sleep(0.5)
        before, began_s = plane.polls, time.monotonic()
        time.sleep(3)
        polls, took_s = plane.polls - before, time.monotonic() - began_s
        plane.is_down = False

        assert polls <= took_s + 1
        assert "COMPLETED" == plane.run(text_job("after it"))["status"]
        assert 0 == process.terminate()


def test_lost_device_takes_no_more_jobs(tmp_path: Path) -> None:
    """Jobs that wait in the platform's queue are left to other workers; it took, and failed, some hundred of them."""
    lose = tmp_path / "lose"
    command = [sys.executable, "-m", "tools.testbed.lost_handler"]
    with control_plane() as plane:
        settings = {**plane.worker_environment(), "LOSE_AT": str(lose)}
        # Each one another: what is known needs no device.
        jobs = map(text_job, map(str, itertools.count()))
        with handler_process(settings, command=command) as process, plane.submitting(lambda: next(jobs)):
            plane.wait_for_answers(50)
            lose.touch()
            status = process.wait_for_exit()
            answered = [job.status() for job in list(plane.jobs.values()) if job.taken]
    failed = [one for one in answered if one["status"] == "FAILED"]

    assert FAULT_EXIT_STATUS == status
    assert {"NOT_READY"} == {code_of(one) for one in failed}
    # Those that were here, and those of the poll that was on its way.
    assert len(failed) <= 2 * 16


def test_sigterm_while_loading_ends_the_process(tmp_path: Path) -> None:
    """A worker that has not heard it takes jobs, and is killed with them. To the first process of a container a signal
    without a handler never comes; here that is one that ignores it."""
    command = ["env", "--ignore-signal=TERM", *HANDLER]
    with control_plane() as plane:
        settings = {**plane.worker_environment(), "CLIP_CACHE_DIR": str(tmp_path), "CLIP_ENGINE": "openvino"}
        with handler_process(settings, command=command) as process:
            process.wait_for_log("exporting the model")
            status = process.terminate()

    assert (128 + signal.SIGTERM, 0) == (status, plane.polls)


def test_every_job_that_is_taken_has_its_place() -> None:
    """As many as SERVERLESS_CONCURRENCY, each as large as it may be: what has been taken cannot wait elsewhere."""
    with own_handler(SERVERLESS_CONCURRENCY="80") as (plane, _):
        jobs = [plane.submit(text_job(f"number {number}")) for number in range(100)]
        for batch in range(10):
            texts = [f"text {number} of batch {batch}" for number in range(256)]
            jobs.append(plane.submit({"path": EMBED_TEXT_BATCH, **signed_texts(texts)}))
        plane.wait_for_answers(len(jobs), timeout_s=5 * SOON_S)

    assert ["COMPLETED"] * len(jobs) == [job.status()["status"] for job in jobs]


def test_model_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    """One line that names the setting, before any job is taken."""
    with handler_process({"CLIP_MODEL": str(tmp_path)}) as process:
        status = process.wait_for_exit()
        log = process.log()

    assert 0 != status
    assert log.startswith("cannot start: CLIP_MODEL: ")
    assert 1 == log.count("\n")


def test_handler_that_holds_its_interpreter_is_ended(tmp_path: Path) -> None:
    """The platform sees a container that has ended, and not one that is silent for good."""
    seize = tmp_path / "seize"
    command = [sys.executable, "-m", "tools.testbed.seized_handler"]
    with control_plane() as plane:
        settings = {**plane.worker_environment(), "WATCHDOG_HUB_S": "5", "SEIZE_AT": str(seize)}
        with handler_process(settings, command=command) as process:
            answered = plane.run(text_job())["status"]
            seize.touch()
            status = process.wait_for_exit()
            log = process.log()

    assert ("COMPLETED", signal.SIGABRT) == (answered, status)
    assert "in seize_interpreter" in log


def test_log_names_the_client(plane: ControlPlane, handler: ServiceProcess) -> None:
    """Of a signature the secret's, of the platform's own key the one for all; a stranger has no name."""
    text = {"path": EMBED_TEXT, **signed_text("a red circle", request_id="who-signs")}
    forged = {"path": EMBED_TEXT, **signed_text("a", secret="x" * 32, request_id="who-forges")}
    for job_input in (text, forged):
        plane.run(job_input)
    of_id = {line["request_id"]: line["client"] for line in handler.log_lines() if line["message"] == "job"}

    assert ("default", None) == (of_id["who-signs"], of_id["who-forges"])


def test_log_has_the_time_of_each_stage(plane: ControlPlane, handler: ServiceProcess) -> None:
    """Those of its answer, of which the platform keeps nothing; what was refused has been through none."""
    text = {"path": EMBED_TEXT, **signed_text("a text that is timed", request_id="is-timed")}
    forged = {"path": EMBED_TEXT, **signed_text("a", secret="x" * 32, request_id="is-refused")}
    timings = plane.run(text)["output"]["timings"]
    plane.run(forged)
    lines = {line["request_id"]: line for line in handler.log_lines() if line["message"] == "job"}

    assert {"queue_ms", "inference_ms"} == {name for name in lines["is-timed"] if name in timings} - {"total_ms"}
    assert timings["inference_ms"] == lines["is-timed"]["inference_ms"] > 0
    assert "inference_ms" not in lines["is-refused"]
