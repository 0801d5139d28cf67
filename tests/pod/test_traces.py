"""Traces of a real pod, as a receiver of OTLP sees them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.testbed.held import held_image
from tools.testbed.image_server import ImageServer
from tools.testbed.process import SECRET, TINY_MODEL, PodProcess, pod_process
from tools.testbed.target import signed_batch, signed_image, signed_text
from tools.testbed.trace_receiver import Span, TraceReceiver, trace_receiver

SOON_S = 30.0
RED_CIRCLE = (TINY_MODEL / "examples" / "red-circle.png").read_bytes()
CALLER_ID = "b7ad6b7169203331"
STAGES = ["download", "decode", "queue", "forward"]


@pytest.fixture(scope="module")
def told() -> Iterator[TraceReceiver]:
    with trace_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced_pod(told: TraceReceiver) -> Iterator[PodProcess]:
    """A pod that tells each request, of a caller's trace or not."""
    with pod_process(told.environment()) as process:
        yield process


@contextmanager
def own_pod(**settings: str) -> Iterator[tuple[TraceReceiver, PodProcess]]:
    with trace_receiver() as receiver, pod_process(receiver.environment(**settings)) as process:
        yield receiver, process


def ask(pod: PodProcess, path: str, body: object, number: int) -> requests.Response:
    """As the `number`th caller: each has a trace of its own."""
    headers = {"traceparent": f"00-{number:032x}-{CALLER_ID}-01"}
    return requests.post(pod.base_url + path, json=body, headers=headers, timeout=SOON_S)


def request_of(told: TraceReceiver, path: str, number: int) -> Span:
    """The pod's span of that caller's request."""
    trace_id = f"{number:032x}"
    spans = [span for span in told.wait_for_trace(trace_id, f"POST {path}") if span.parent_id == CALLER_ID]
    [span] = spans
    return span


def children_of(told: TraceReceiver, parent: Span) -> list[Span]:
    """In the order of the stages."""
    found = [span for span in told.spans if span.parent_id == parent.span_id]
    return sorted(found, key=lambda span: STAGES.index(span.name))


def test_image_has_a_span_for_each_stage(traced_pod: PodProcess, told: TraceReceiver, images: ImageServer) -> None:
    """Below the caller's span, within the request's time; and the log has the trace's id."""
    url = images.add("/traced.png", RED_CIRCLE + b"traced")
    ask(traced_pod, EMBED_IMAGE, signed_image(url, request_id="traced"), 1).raise_for_status()
    request = request_of(told, EMBED_IMAGE, 1)
    stages = children_of(told, request)
    [line] = [line for line in traced_pod.log_lines() if line.get("request_id") == "traced"]

    assert ("clip-embedding-pod", "server", f"{1:032x}") == (request.service, request.kind, line["trace_id"])
    assert {
        "http.request.method": "POST",
        "http.route": EMBED_IMAGE,
        "url.path": EMBED_IMAGE,
        "url.scheme": "http",
        "http.response.status_code": 200,
        "clip.request_id": "traced",
        "clip.image.items": 1,
        "clip.image.cached_items": 0,
    } == request.attributes
    assert STAGES == [span.name for span in stages]
    assert all(request.began_ns <= span.began_ns <= span.ended_ns <= request.ended_ns for span in stages)


def test_text_waits_and_passes(traced_pod: PodProcess, told: TraceReceiver) -> None:
    """Nothing of it is downloaded."""
    ask(traced_pod, EMBED_TEXT, signed_text("a text that is traced"), 2).raise_for_status()

    assert ["queue", "forward"] == [span.name for span in children_of(told, request_of(told, EMBED_TEXT, 2))]


def test_batch_has_one_span_for_each_stage(traced_pod: PodProcess, told: TraceReceiver, images: ImageServer) -> None:
    """However many images there are; one that fails is an event with its code."""
    urls = [images.add(f"/traced-{number}.png", RED_CIRCLE + bytes([number])) for number in range(3)]
    ask(traced_pod, EMBED_IMAGE_BATCH, signed_batch([*urls, images.base_url + "/missing.png"]), 3).raise_for_status()
    request = request_of(told, EMBED_IMAGE_BATCH, 3)
    [event] = request.events

    assert [(stage, 3) for stage in STAGES] == [
        (span.name, span.attributes["clip.items"]) for span in children_of(told, request)
    ]
    assert (3, "DOWNLOAD_ERROR") == (event.attributes["clip.position"], event.attributes["error.type"])


def test_refused_request_has_its_span(traced_pod: PodProcess, told: TraceReceiver) -> None:
    """The caller's fault is no error of the pod's."""
    answer = ask(traced_pod, EMBED_TEXT, {"text": "unsigned"}, 4)
    request = request_of(told, EMBED_TEXT, 4)

    assert (401, 401) == (answer.status_code, request.attributes["http.response.status_code"])
    assert ("AUTH_FAILED", False) == (request.attributes["error.type"], request.is_error)


def test_request_that_is_turned_away_at_the_door_has_its_span(images: ImageServer) -> None:
    """No thread has seen it, and it is the one that a client comes back to."""
    with own_pod(MAX_CONCURRENT_REQUESTS="1") as (receiver, pod), held_image(pod.base_url, images):
        urls = [f"http://127.0.0.1:9/{number}.png" for number in range(3)]
        ask(pod, EMBED_IMAGE_BATCH, signed_batch(urls), 5)
        request = request_of(receiver, EMBED_IMAGE_BATCH, 5)

    assert ("OVERLOADED", 503, True) == (
        request.attributes["error.type"],
        request.attributes["http.response.status_code"],
        request.is_error,
    )


def test_health_and_metrics_are_not_traced(traced_pod: PodProcess, told: TraceReceiver) -> None:
    """They are asked for every second."""
    for path in ("/health", "/metrics", "/readyz"):
        requests.get(traced_pod.base_url + path, timeout=SOON_S).raise_for_status()
    ask(traced_pod, EMBED_TEXT, signed_text("after all of them"), 6)
    request_of(told, EMBED_TEXT, 6)

    assert {"POST"} == {span.name.split()[0] for span in told.spans if span.kind == "server"}


def test_spans_hold_nothing_of_what_was_sent(traced_pod: PodProcess, told: TraceReceiver, images: ImageServer) -> None:
    """No URL, no text, no signature and no secret leaves for a receiver, not even in an error."""
    image = signed_image(images.add("/private-name.png", RED_CIRCLE) + "?token=private-token")
    text = signed_text("a private text")
    ask(traced_pod, EMBED_IMAGE, image, 7).raise_for_status()
    ask(traced_pod, EMBED_IMAGE, signed_image(images.base_url + "/private-missing"), 8)
    ask(traced_pod, EMBED_TEXT, text, 9).raise_for_status()
    ask(traced_pod, EMBED_TEXT, {**text, "auth": {"ts": 1, "sig": "private-signature"}}, 10)
    for number, path in ((7, EMBED_IMAGE), (8, EMBED_IMAGE), (9, EMBED_TEXT), (10, EMBED_TEXT)):
        request_of(told, path, number)
    sent = told.raw

    assert b"clip.request_id" in sent
    for private in ("private", SECRET, image["auth"]["sig"], text["auth"]["sig"], images.base_url):
        assert private.encode() not in sent


def test_last_spans_are_sent_when_a_pod_drains() -> None:
    """Also those that wait for the exporter's turn, which would be in an hour."""
    with own_pod(OTEL_BSP_SCHEDULE_DELAY="3600000") as (receiver, pod):
        ask(pod, EMBED_TEXT, signed_text("the last one"), 11).raise_for_status()
        before = receiver.spans
        status = pod.terminate()
        request = request_of(receiver, EMBED_TEXT, 11)

    assert ([], 0) == (before, status)
    assert ["queue", "forward"] == [span.name for span in children_of(receiver, request)]


def test_receiver_that_is_away_is_nobodys_concern() -> None:
    """Requests are answered, and the pod ends as it should."""
    with pod_process({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}) as pod:
        answers = [ask(pod, EMBED_TEXT, signed_text(f"number {number}"), number).status_code for number in range(5)]
        status = pod.terminate()

    assert ([200] * 5, 0) == (answers, status)


def test_log_holds_nothing_of_a_receiver_that_is_away() -> None:
    """Its URL may hold a key, and is in no line, not even of DEBUG; one line says that traces are lost."""
    settings = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/private-path?api-key=private-key",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer private-token",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "LOG_LEVEL": "DEBUG",
    }
    with pod_process(settings) as pod:
        ask(pod, EMBED_TEXT, signed_text("lost"), 13).raise_for_status()
        pod.wait_for_log("traces are not received")
        pod.terminate()
        log, lines = pod.log(), pod.log_lines()

    [line] = [line for line in lines if "traces" in str(line["message"])]
    assert ("WARNING", "traces are not received: ConnectionError") == (line["level"], line["message"])
    assert "private" not in log


def test_log_holds_nothing_of_what_a_stranger_calls_a_trace(traced_pod: PodProcess, told: TraceReceiver) -> None:
    """Nobody has signed it. The trace goes on, and no line is written beside the request's."""
    headers = {"traceparent": f"00-{14:032x}-{CALLER_ID}-01", "tracestate": "https://a/b?X-Amz-Signature=private"}
    requests.post(traced_pod.base_url + EMBED_TEXT, json={}, headers=headers, timeout=SOON_S)
    request_of(told, EMBED_TEXT, 14)

    assert "private" not in traced_pod.log()
    assert [] == [line for line in traced_pod.log_lines() if str(line["logger"]).startswith("opentelemetry")]


def test_variables_of_opentelemetry_are_heeded() -> None:
    """The SDK reads them: a name, and a sampler that takes nothing unless a caller has."""
    with own_pod(OTEL_SERVICE_NAME="thumbnails", OTEL_TRACES_SAMPLER="parentbased_always_off") as (receiver, pod):
        requests.post(pod.base_url + EMBED_TEXT, json=signed_text("not sampled"), timeout=SOON_S).raise_for_status()
        ask(pod, EMBED_TEXT, signed_text("sampled"), 12).raise_for_status()
        request = request_of(receiver, EMBED_TEXT, 12)
        pod.terminate()

    assert "thumbnails" == request.service
    assert {f"{12:032x}"} == {span.trace_id for span in receiver.spans}


def test_extra_that_is_missing_is_said_once(tmp_path: Path) -> None:
    """At the start, by the master, however many workers there are; the pod serves without traces."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(tmp_path), "WORKERS": "2"}
    with pod_process(settings) as pod:
        while sum(line["message"] == "model ready" for line in pod.log_lines()) < 2:
            time.sleep(0.05)
        status = requests.post(pod.base_url + EMBED_TEXT, json=signed_text("a"), timeout=SOON_S).status_code
        lines = [line for line in pod.log_lines() if str(line["message"]).startswith("no traces")]

    [line] = lines
    assert 200 == status
    assert ("WARNING", True) == (line["level"], "install the extra otel" in line["message"])
