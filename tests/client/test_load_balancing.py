"""A load-balancing endpoint is a pod behind RunPod's own authorization."""

import json
from http.server import BaseHTTPRequestHandler

import pytest
from clip_embedding_client.backends import create_backend, is_load_balancer
from clip_embedding_client.backends.pod import PodBackend
from clip_embedding_client.clock import Clock
from clip_embedding_client.errors import BackendMisconfigured, ClipClientError, ConfigurationError, NotReady
from clip_embedding_client.settings import BackendName, ClientSettings
from clip_embedding_client.threads import ThreadDriver

from tests.client.scripted import Reply, json_reply, page, scripted_server
from tools.testbed.loopback import QuietHandler, base_url, serving


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("https://abc.api.runpod.ai", True, id="load balancer"),
        pytest.param("https://abc-8000.proxy.runpod.net", False, id="pod's proxy"),
        pytest.param("https://api.runpod.ai.example.com", False, id="other host"),
        pytest.param("http://127.0.0.1:8000", False, id="this machine"),
    ],
)
def test_key_goes_to_load_balancers_only(url: str, expected: bool) -> None:
    """RUNPOD_API_KEY can create and delete everything: no other host may see it."""
    assert expected is is_load_balancer(url)


def test_load_balancer_needs_the_key() -> None:
    """Without it RunPod refuses every request, which would look like a wrong secret."""
    settings = ClientSettings.from_environ(
        {
            "CLIP_INFERENCE_BACKEND": "runpod_pod",
            "CLIP_POD_BASE_URL": "https://abc.api.runpod.ai",
            "EMBEDDING_HMAC_SECRET": "test-secret",
        }
    )

    with pytest.raises(ConfigurationError, match="RUNPOD_API_KEY"):
        create_backend(BackendName.POD, settings, Clock())


def test_key_is_sent_with_operations_and_health() -> None:
    """Both pass through the load balancer."""
    seen: list[str | None] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer()

        def _answer(self: BaseHTTPRequestHandler) -> None:
            seen.append(self.headers.get("Authorization"))
            data = json.dumps({"status": "ok"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with serving(Handler) as httpd:
        driver = ThreadDriver(connect_timeout_s=5.0, clock=Clock())
        backend = PodBackend(base_url(httpd), timeout_s=5.0, api_key="key")
        driver.run(backend.health(timeout_s=5.0))
        driver.run(backend.call("/v1/embed/text", {}, timeout_s=5.0))
        driver.close()

    assert ["Bearer key", "Bearer key"] == seen


@pytest.mark.parametrize("reply", [page(400), Reply(400), json_reply({"error": "no workers available"}, 400)])
@pytest.mark.parametrize(("api_key", "expected"), [("key", NotReady), (None, BackendMisconfigured)])
def test_no_worker_is_up(reply: Reply, api_key: str | None, expected: type[ClipClientError]) -> None:
    """A load balancer says it with 400, which passes; from anybody else that means another service."""
    with scripted_server(reply) as script:
        driver = ThreadDriver(connect_timeout_s=5.0, clock=Clock())
        backend = PodBackend(script.base_url, timeout_s=60.0, api_key=api_key)
        with pytest.raises(expected):
            driver.run(backend.call("/v1/embed/text", {}, timeout_s=60.0))
        driver.close()
