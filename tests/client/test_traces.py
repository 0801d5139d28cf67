"""The spans of a call: one for each request that it sends, which carries the trace along, and nothing private."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from clip_embedding_client import errors
from clip_embedding_client.backends.pod import PodBackend
from clip_embedding_client.backends.serverless import ServerlessBackend
from clip_embedding_client.effects import Effect, Exchange, Flow, HttpAnswer, InProcess, Pause
from clip_embedding_client.spans import Spans
from clip_embedding_client.threads import ThreadDriver
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer, Span, SpanKind, StatusCode, set_span_in_context

from tests.client.flows import Played, members, play
from tests.client.scripted import FakeTime
from tools.testbed.process import ROOT

PATH = "/v1/embed/text"
BODY = {"text": "private words", "auth": {"sig": "private"}}


class Kept:
    """Spans that are kept instead of sent."""

    def __init__(self) -> None:
        self._receiver = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._receiver))
        self.spans = Spans(self.provider.get_tracer("tests"), None)

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._receiver.get_finished_spans())

    def of(self, name: str) -> Any:  # noqa: ANN401 - a finished span, whose parts its types call optional
        [span] = [span for span in self.all if span.name == name]
        return span


def http(status: int, body: object) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(body).encode(), None)


def pod() -> PodBackend:
    return PodBackend("https://pod.example/private-base", timeout_s=10.0, api_key="private-key")


def serverless() -> ServerlessBackend:
    return ServerlessBackend(
        "http://api.example:81/v2/private-id", "private-key", timeout_s=10.0, clock=FakeTime().clock()
    )


def traced(kept: Kept, flow: Flow[object], *answers: HttpAnswer | BaseException | Callable[[Effect], Any]) -> Played:
    return play(kept.spans.call(flow, "embed", items=1), answers, time=FakeTime())


def sent_along(kept: Kept, name: str) -> str:
    """The traceparent of a span, but for its flags."""
    context = kept.of(name).context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}"


def test_request_to_a_pod_carries_the_trace_in_a_header() -> None:
    """Its span is a child of the call's, and the pod's is a child of it."""
    kept = Kept()
    played = traced(kept, pod().call(PATH, BODY, timeout_s=5.0), http(200, {"ok": 1}))
    [exchange] = played.exchanges
    call, request = kept.of("embed"), kept.of("POST runpod_pod")

    assert {"ok": 1} == played.result
    assert sent_along(kept, "POST runpod_pod") == exchange.headers["traceparent"][:-3]
    assert BODY == exchange.body
    assert (call.context.span_id, SpanKind.CLIENT) == (request.parent.span_id, request.kind)
    assert {
        "clip.backend": "runpod_pod",
        "http.request.method": "POST",
        "server.address": "pod.example",
        "server.port": 443,
        "http.response.status_code": 200,
    } == dict(request.attributes)


def test_job_carries_the_trace_in_its_input() -> None:
    """The platform passes no headers on. A poll asks for nothing that is traced, and is a span all the same."""
    kept = Kept()
    queued, done = {"id": "a", "status": "IN_QUEUE"}, {"id": "a", "status": "COMPLETED", "output": {"ok": 1}}
    played = traced(kept, serverless().call(PATH, BODY, timeout_s=5.0), http(200, queued), http(200, done))
    run, poll = played.exchanges

    assert {"ok": 1} == played.result
    assert sent_along(kept, "POST runpod_serverless") == members(run)["input"]["traceparent"][:-3]
    assert "traceparent" not in {**run.headers, **poll.headers}
    assert 81 == kept.of("GET runpod_serverless").attributes["server.port"]


def twice(backend: PodBackend) -> Flow[object]:
    try:
        return (yield from backend.call(PATH, BODY, timeout_s=5.0))
    except errors.ClipClientError:
        yield Pause(1.0)
        return (yield from backend.call(PATH, BODY, timeout_s=5.0))


@pytest.mark.parametrize(
    ("first", "error_type"),
    [
        pytest.param(http(503, {}), "503", id="status"),
        pytest.param(errors.ConnectionFailed("private"), "CONNECTION_FAILED", id="no connection"),
    ],
)
def test_each_attempt_is_a_span(first: HttpAnswer | Exception, error_type: str) -> None:
    """In one trace; the second one says that it is a repetition."""
    kept = Kept()
    played = traced(kept, twice(pod()), first, http(200, {"ok": 1}))
    failed, repeated = (span for span in kept.all if span.name == "POST runpod_pod")

    assert {"ok": 1} == played.result
    assert failed.attributes is not None
    assert repeated.attributes is not None
    assert (error_type, StatusCode.ERROR) == (failed.attributes["error.type"], failed.status.status_code)
    assert (None, 1) == tuple(span.attributes.get("http.request.resend_count") for span in (failed, repeated))  # type: ignore[union-attr]
    assert 1 == len({span.context.trace_id for span in kept.all if span.context})
    assert StatusCode.UNSET == kept.of("embed").status.status_code


def test_call_that_fails_is_an_error() -> None:
    """With the code that its caller gets, and none of the words."""
    kept = Kept()
    played = traced(kept, pod().call(PATH, BODY, timeout_s=5.0), errors.ConnectionFailed("private"))

    assert isinstance(played.error, errors.ConnectionFailed)
    assert ("CONNECTION_FAILED", StatusCode.ERROR) == (
        kept.of("embed").attributes["error.type"],
        kept.of("embed").status.status_code,
    )


def batch_of(*outcomes: object) -> Flow[object]:
    yield Pause(1.0)
    return list(outcomes)


def test_items_that_failed_are_counted() -> None:
    """A batch with results in it is no error, whatever became of some."""
    kept = Kept()
    traced(kept, batch_of("vector", errors.Overloaded("private"), "vector"))
    call = kept.of("embed")

    assert (1, "OVERLOADED") == (call.attributes["clip.failed_items"], call.attributes["error.type"])
    assert StatusCode.UNSET == call.status.status_code


def in_process() -> Flow[object]:
    return (yield InProcess(lambda: None, lambda: None))


def test_call_in_this_process_is_a_span() -> None:
    """It carries nothing: there is nobody to send it to."""
    kept = Kept()
    played = traced(kept, in_process(), lambda _effect: "done")

    assert "done" == played.result
    assert {"clip.backend": "local"} == dict(kept.of("local").attributes)


def test_call_is_a_child_of_what_was_current_when_it_was_asked_for() -> None:
    """The flow runs later, and on another thread, for the items of a batch."""
    kept = Kept()
    outer = kept.provider.get_tracer("tests").start_span("of the application")
    token = attach(set_span_in_context(outer))
    flow = kept.spans.call(pod().call(PATH, BODY, timeout_s=5.0), "embed", items=1)
    detach(token)
    play(flow, [http(200, {})])

    assert outer.get_span_context().span_id == kept.of("embed").parent.span_id


def test_spans_hold_nothing_private() -> None:
    """Neither what is embedded, nor what proves who asks, nor where on a host it is."""
    kept = Kept()
    traced(kept, pod().call(PATH, BODY, timeout_s=5.0), errors.ConnectionFailed("private"))
    traced(kept, serverless().call(PATH, BODY, timeout_s=5.0), http(500, {"error": "private"}))

    assert len(kept.all) == 4
    assert "private" not in "".join(span.to_json() for span in kept.all)


def test_flow_that_is_given_up_ends_its_spans() -> None:
    """As when a task is cancelled, or Ctrl-C comes in the middle of an exchange."""
    kept = Kept()
    flow = kept.spans.call(pod().call(PATH, BODY, timeout_s=5.0), "embed", items=1)
    assert isinstance(next(flow), Exchange)
    flow.close()

    assert {"POST runpod_pod", "embed"} == {span.name for span in kept.all}


CLIENT = """
import sys
from clip_embedding_client import ClientSettings, ClipClient
client = ClipClient(ClientSettings.from_environ({"CLIP_INFERENCE_BACKEND": "off"}))
tracing = client._policy.tracing
print(tracing is not None, tracing is not None and tracing._exporter is not None, "opentelemetry" in sys.modules)
client.close()
"""
APPLICATION = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
"""
RECEIVER = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("before", "environ", "expected"),
    [
        pytest.param("", {}, "False False False", id="nobody would hear"),
        pytest.param("", RECEIVER, "True True True", id="receiver"),
        pytest.param(APPLICATION, {}, "True False True", id="application"),
        pytest.param(APPLICATION, RECEIVER, "True False True", id="application and receiver"),
        pytest.param("import opentelemetry.trace", {}, "False False True", id="loaded and not set up"),
    ],
)
def test_application_that_traces_gets_the_spans(before: str, environ: Mapping[str, str], expected: str) -> None:
    """Else the client has an exporter of its own, where a receiver is named; else nothing, and loads nothing.

    Told are: whether it traces, whether by an exporter of its own, and whether OpenTelemetry is loaded.
    """
    program = f"{before}\n{CLIENT}"
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'client' / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environ, **paths}, capture_output=True, text=True, check=True
    )

    assert expected == done.stdout.strip()


LOGS = """
import logging, os, sys
from clip_embedding_client.traces import start_tracing
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
logging.basicConfig(level="DEBUG", format="%(name)s %(levelname)s %(message)s")
tracing = start_tracing(os.environ)
span = tracing._tracer.start_span("a")
span.end()
tracing._exporter.flush(30.0)
tracing.close()
print("of the application", file=sys.stderr)
OTLPSpanExporter(endpoint="http://127.0.0.1:9/its-own", timeout=0.1).export([span])
"""


def test_log_of_an_application_holds_no_key_of_a_receiver() -> None:
    """The client's exporter writes into it, at any level; what the application's own exporter writes is left alone."""
    environ = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/?key=private",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'client' / 'src'}",
    }
    done = subprocess.run([sys.executable, "-c", LOGS], env=environ, capture_output=True, text=True, check=True)
    of_client, of_application = done.stderr.split("of the application")

    assert "private" not in done.stderr
    assert ["clip_embedding_client.tracing.sending WARNING traces are not received: ConnectionError"] == [
        line for line in of_client.splitlines() if "traces" in line
    ]
    assert "opentelemetry.exporter.otlp.proto.http.trace_exporter" in of_application


class _InterruptedTracer(NoOpTracer):
    """Ctrl-C comes when its second span begins."""

    spans = 0

    def start_span(self, *given: Any, **named: Any) -> Span:  # noqa: ANN401
        self.spans += 1
        if self.spans == 2:
            raise KeyboardInterrupt
        return super().start_span(*given, **named)


def test_ctrl_c_while_a_span_begins() -> None:
    """The flow is told as it is without traces, and what it undoes is done."""
    undone: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield InProcess(lambda: None, lambda: None)
        except KeyboardInterrupt:
            yield InProcess(lambda: undone.append("job"), lambda: None)
            raise

    driver = ThreadDriver(connect_timeout_s=1.0, clock=FakeTime().clock())
    with pytest.raises(KeyboardInterrupt):
        driver.run(Spans(_InterruptedTracer(), None).call(flow(), "embed_text", items=1))

    assert ["job"] == undone
