"""Traces of a real handler under the SDK's loop, as a receiver of OTLP sees them."""

from collections.abc import Iterator

import pytest

from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.testbed.control_plane import ControlPlane, control_plane
from tools.testbed.image_server import ImageServer
from tools.testbed.process import TINY_MODEL, ServiceProcess, handler_process
from tools.testbed.target import signed_image, signed_text
from tools.testbed.trace_receiver import Span, TraceReceiver, trace_receiver

RED_CIRCLE = (TINY_MODEL / "examples" / "red-circle.png").read_bytes()
CALLER_ID = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def told() -> Iterator[TraceReceiver]:
    with trace_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced_plane() -> Iterator[ControlPlane]:
    with control_plane() as running:
        yield running


@pytest.fixture(scope="module")
def traced_handler(traced_plane: ControlPlane, told: TraceReceiver) -> Iterator[ServiceProcess]:
    """Its exporter's own turn comes in an hour: whatever comes before was sent with a job."""
    settings = {**traced_plane.worker_environment(), **told.environment(OTEL_BSP_SCHEDULE_DELAY="3600000")}
    with handler_process(settings) as process:
        yield process


def context(number: int) -> dict[str, str]:
    """What the `number`th caller sends along: each has a trace of its own."""
    return {"traceparent": f"00-{number:032x}-{CALLER_ID}-01"}


def spans_of(told: TraceReceiver, number: int, path: str) -> dict[str, Span]:
    """When the job's own has come, which is its last: the worker waits for that a second and no longer."""
    told.wait_for_trace(f"{number:032x}", f"job {path}")
    return {span.name: span for span in told.spans if span.trace_id == f"{number:032x}"}


def test_spans_of_a_job_are_sent_before_its_answer(
    traced_plane: ControlPlane, traced_handler: ServiceProcess, told: TraceReceiver, images: ImageServer
) -> None:
    """A worker may be frozen then. They are below the caller's, whose context is a member that no signature covers."""
    image = signed_image(images.add("/traced-job.png", RED_CIRCLE), request_id="traced-job")
    job = traced_plane.submit({"path": EMBED_IMAGE, **image, **context(1)})
    assert job.done.wait(60)
    spans = spans_of(told, 1, EMBED_IMAGE)
    [line] = [line for line in traced_handler.log_lines() if line.get("request_id") == "traced-job"]

    assert "COMPLETED" == job.status()["status"]
    assert {f"job {EMBED_IMAGE}", "download", "decode", "queue", "forward"} == set(spans)
    of_job = spans.pop(f"job {EMBED_IMAGE}")
    assert ("clip-embedding-serverless", "consumer", CALLER_ID) == (of_job.service, of_job.kind, of_job.parent_id)
    assert {
        "faas.invocation_id": job.id,
        "url.path": EMBED_IMAGE,
        "clip.request_id": "traced-job",
        "clip.image.items": 1,
        "clip.image.cached_items": 0,
    } == of_job.attributes
    assert {of_job.span_id} == {span.parent_id for span in spans.values()}
    assert f"{1:032x}" == line["trace_id"]


def test_failed_job_is_an_error(
    traced_plane: ControlPlane, traced_handler: ServiceProcess, told: TraceReceiver
) -> None:
    """With its code."""
    status = traced_plane.run({"path": EMBED_TEXT, "text": "unsigned", **context(2)})
    span = spans_of(told, 2, EMBED_TEXT)[f"job {EMBED_TEXT}"]

    assert ("FAILED", "AUTH_FAILED", True) == (status["status"], span.attributes["error.type"], span.is_error)


def test_only_operations_are_traced(
    traced_plane: ControlPlane, traced_handler: ServiceProcess, told: TraceReceiver
) -> None:
    """Not health, and no path of a stranger's choice becomes a span's name."""
    traced_plane.run({"path": "/health", **context(3)})
    traced_plane.run({"path": "/private-path", **context(3)})
    traced_plane.run({"path": EMBED_TEXT, **signed_text("after them"), **context(4)})

    assert {f"job {EMBED_TEXT}"} <= spans_of(told, 4, EMBED_TEXT).keys()
    assert [] == [span.name for span in told.spans if span.trace_id == f"{3:032x}"]


def test_stopped_job_ends_its_span_for_good(images: ImageServer) -> None:
    """Its thread learns of it later, and what that notes is nobody's any more: no line says so."""
    url, gate = images.add_gated("/gated-traced.png", RED_CIRCLE)
    with trace_receiver() as receiver, control_plane() as plane:
        # Of one job at a time, so that the next one is answered by the thread of the stopped one.
        settings = {**plane.worker_environment(), **receiver.environment(MAX_CONCURRENT_REQUESTS="1")}
        with handler_process(settings) as process:
            stopped = plane.submit({"path": EMBED_IMAGE, **signed_image(url), **context(5)})
            gate.wait_for_request()
            plane.stop(stopped)
            process.wait_for_log("Job stopped.")
            gate.open()
            plane.run({"path": EMBED_TEXT, **signed_text("after it")})
            span = spans_of(receiver, 5, EMBED_IMAGE)[f"job {EMBED_IMAGE}"]
            lines = process.log_lines()

    assert ("cancelled", True) == (span.attributes["error.type"], span.is_error)
    assert [] == [line for line in lines if str(line.get("logger")).startswith("opentelemetry")]


def test_receiver_that_is_away_fails_no_job() -> None:
    """Jobs are answered, and the worker ends as it should."""
    with control_plane() as plane:
        settings = {**plane.worker_environment(), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
        with handler_process(settings) as process:
            jobs = [plane.run({"path": EMBED_TEXT, **signed_text(f"{number}")}) for number in range(3)]
            status = process.terminate()

    assert (["COMPLETED"] * 3, 0) == ([job["status"] for job in jobs], status)
