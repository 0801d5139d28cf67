"""The service is told how long its caller waits, so that its own answer comes before the caller gives up."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from clip_embedding_client import ClientSettings, ClipClient, Embedding, errors
from clip_embedding_client.backends import Backend
from clip_embedding_client.backends.base import told_timeout_ms
from clip_embedding_client.backends.pod import PodBackend
from clip_embedding_client.backends.serverless import ServerlessBackend
from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import Exchange, Flow
from PIL import Image

from core.deadline import parse_timeout_ms
from tests.client.scripted import FakeTime, Seen, answer, client_of, error_reply, json_reply, scripted_server, settings
from tests.client.test_real_pod import COLOURS, LOCAL
from tests.client.test_serverless import completed
from tools.testbed.control_plane import API_KEY, ENDPOINT_ID, ControlPlane
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import SECRET, PodProcess, ServiceProcess

SLOW = "/deadlines-slow.png"


def patient(flow: Flow[object]) -> Flow[object]:
    """The flow, and a driver that waits far longer than it is told to: whatever ends a call then is the service."""
    exchange = next(flow)
    while isinstance(exchange, Exchange):
        # Nor does RunPod name the job of one that has little time.
        url = exchange.url.partition("?wait=")[0]
        answer = yield replace(exchange, url=url, timeout_s=exchange.timeout_s + 60)
        try:
            exchange = flow.send(answer)
        except StopIteration as done:
            return done.value
    raise AssertionError(f"nothing but exchanges was expected, not {exchange}")


class PatientPod(PodBackend):
    """Ends no call by itself."""

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        return (yield from patient(super().call(path, body, timeout_s=timeout_s)))


class PatientServerless(ServerlessBackend):
    """Ends no call by itself."""

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        return (yield from patient(super().call(path, body, timeout_s=timeout_s)))


def picture(colour: str) -> bytes:
    return encoded(Image.new("RGB", (64, 64), colour), "PNG")


def client_over(backend: Backend) -> ClipClient:
    return client_of([backend], Clock(), EMBEDDING_HMAC_SECRET=SECRET, CLIP_RETRY_ATTEMPTS="1")


@pytest.mark.parametrize(
    ("limit_s", "expected_ms"),
    [
        pytest.param(60.0, 59_000, id="a second for the way back"),
        pytest.param(5.0, 4_500, id="a tenth of a short time"),
        pytest.param(0.1, 90, id="the shortest attempt"),
        pytest.param(0.0001, 1, id="at least what the service takes"),
        pytest.param(1e9, 999_999_999, id="at most what the service takes"),
    ],
)
def test_what_the_service_is_told(limit_s: float, expected_ms: int) -> None:
    """The caller's time less an allowance, and always a number that the service takes."""
    told = told_timeout_ms(limit_s)

    assert expected_ms == told
    assert told == parse_timeout_ms(str(told), "timeout")


def told_pod(seen: Seen) -> str | None:
    return seen.headers.get("X-Request-Timeout-Ms")


def told_handler(seen: Seen) -> str | None:
    told = seen.body["input"].get("timeout_ms")
    return None if told is None else str(told)


@pytest.mark.parametrize("backend", ["runpod_pod", "runpod_serverless"])
def test_each_attempt_tells_the_time_that_is_left(backend: str) -> None:
    """A retry has less than the first attempt had; the backend's own limit counts as well."""
    busy = error_reply("OVERLOADED", 503, retryable=True, Retry_After="20")
    with scripted_server(busy, answer if backend == "runpod_pod" else completed) as script:
        chosen = settings(
            CLIP_INFERENCE_BACKEND=backend,
            CLIP_POD_BASE_URL=script.base_url,
            RUNPOD_BASE_URL=script.base_url,
            RUNPOD_CLIP_ENDPOINT_ID=".",
            CLIP_POD_TIMEOUT_S="25",
            RUNPOD_TIMEOUT_S="25",
            CLIP_TOTAL_TIMEOUT_S="30",
        )
        with ClipClient(chosen, clock=FakeTime().clock()) as client:
            client.embed_text("x")

    told = told_pod if backend == "runpod_pod" else told_handler
    assert ["24000", "9000"] == [told(seen) for seen in script.seen]


def test_health_tells_nothing() -> None:
    """Health is no work that could be stopped."""
    with scripted_server(json_reply({"status": "ok"})) as script:
        ClipClient(settings(CLIP_POD_BASE_URL=script.base_url)).health()

    assert [None] == [told_pod(seen) for seen in script.seen]


def test_pod_answers_in_the_time_of_its_caller(pod: PodProcess, images: ImageServer) -> None:
    """An image whose host does not answer is DEADLINE_EXCEEDED by the pod's own word, not a client that went away."""
    url, gate = images.add_gated(SLOW, picture("red"))
    with client_over(PatientPod(pod.base_url, timeout_s=1)) as client:
        with pytest.raises(errors.DeadlineExceeded) as caught:
            client.embed_image(url, request_id="scene-1")
        gate.open()

    assert "scene-1" == caught.value.request_id


def test_what_was_in_time_is_not_lost_with_what_was_not(pod: PodProcess, images: ImageServer) -> None:
    """In a batch, an image whose host does not answer costs its own vector and no other."""
    good = [images.add(f"/deadlines-{colour}.png", picture(colour)) for colour in COLOURS[:3]]
    url, gate = images.add_gated(SLOW, picture("red"))
    with client_over(PatientPod(pod.base_url, timeout_s=8)) as client:
        *others, slow = client.embed_images([*good, url])
        gate.open()

    assert [Embedding] * 3 == [type(result) for result in others]
    assert errors.DeadlineExceeded is type(slow)


def test_handler_answers_in_the_time_of_its_caller(
    plane: ControlPlane, handler: ServiceProcess, images: ImageServer
) -> None:
    """The same inside a job."""
    url, gate = images.add_gated(SLOW, picture("red"))
    backend = PatientServerless(f"{plane.base_url}/{ENDPOINT_ID}", API_KEY, timeout_s=1, clock=Clock())
    with client_over(backend) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.embed_image(url)
        gate.open()


def test_local_service_answers_in_the_time_of_its_caller(images: ImageServer) -> None:
    """The same in this process, where nothing else would end the call before the service's own limit."""
    url, gate = images.add_gated(SLOW, picture("red"))
    environ = LOCAL | {"CLIP_TOTAL_TIMEOUT_S": "1", "CLIP_RETRY_ATTEMPTS": "1"}
    with ClipClient(ClientSettings.from_environ(environ)) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.embed_image(url)
        gate.open()
