"""The lean clients and the image server: what they send is what the service accepts."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from bench.images import image_server
from bench.load import Load, drive
from bench.mixture import Mixture
from bench.work import ImageBatches, SingleImages, Texts, Work, text_of
from core.byte_budget import ByteBudget
from core.images.content import SentImages, SentLimits
from core.operations import OPERATIONS
from core.wire.requests import validate
from shared_auth import Authenticator
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.testbed.loopback import QuietHandler, base_url, serving

SECRET = "bench-secret"
NO_IMAGES = SentImages(SentLimits(0, ByteBudget(0)))
URLS = ("http://127.0.0.1:1/a.jpg", "http://127.0.0.1:1/b.jpg")
ALL_WORK = [
    pytest.param(SingleImages(URLS, SECRET), EMBED_IMAGE, id="single"),
    pytest.param(ImageBatches(URLS, SECRET), EMBED_IMAGE_BATCH, id="batch"),
    pytest.param(Texts(SECRET), EMBED_TEXT, id="text"),
]


@pytest.mark.parametrize(("work", "path"), ALL_WORK)
def test_requests_are_valid_and_signed(work: Work, path: str) -> None:
    """Every request passes the service's own models and its own verifier."""
    request = work.request(5)
    checked = validate(OPERATIONS[path].request, json.loads(request.body), NO_IMAGES)
    signed = list(checked.signed_payloads())
    for payload_id, auth in signed:
        Authenticator([SECRET]).verify(path, str(payload_id), auth)

    assert path == request.path
    assert request.vectors == len(signed)


@pytest.mark.parametrize(("work", "path"), ALL_WORK)
def test_answers_are_asked_for_as_base64(work: Work, path: str) -> None:
    """The clients ask for the compact form, so that the network and they themselves cost little."""
    request = validate(OPERATIONS[path].request, json.loads(work.request(0).body), NO_IMAGES)

    assert request.encoding_format == "base64"


def test_no_two_texts_are_the_same() -> None:
    """A cache of answers must not be able to answer for the model."""
    assert len({text_of(number) for number in range(20_000)}) == 20_000


def test_no_two_images_have_the_same_url() -> None:
    """Batches that follow each other name different images, however few files there are."""
    bodies = [json.loads(ImageBatches(URLS, SECRET).request(number).body) for number in range(10)]

    assert len({item["image_url"] for body in bodies for item in body["items"]}) == 160


def test_a_mixture_holds_every_kind() -> None:
    """A hundred requests of the memory run hold texts, images, batches and broken ones."""
    mixture = Mixture(URLS, ("http://127.0.0.1:1/broken.jpg",), SECRET)
    requests = [mixture.request(number) for number in range(100)]
    kinds = {request.path for request in requests if request.vectors}

    assert {EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT} == kinds
    assert any(request.vectors == 0 for request in requests)


class _Scripted(QuietHandler):
    """Answers like the service: /livez, one vector per request; every third text is an error that closes."""

    count = 0

    def do_GET(self) -> None:
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).count += 1
        if self.count % 3 == 0:
            self.close_connection = True
            self._answer(503, b'{"error": {}}')
        else:
            self._answer(200, b'{"embedding": ""}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def scripted_url() -> Iterator[str]:
    with serving(_Scripted) as httpd:
        yield base_url(httpd)


def test_clients_count_answers_and_failures(scripted_url: str) -> None:
    """Each request is counted once, by its status and its vectors, also over connections that the server closes."""
    outcome = drive(Load(scripted_url, Texts(SECRET), clients=1, seconds=60, most_requests=9))

    assert {200: 6, 503: 3} == outcome.statuses
    assert (9, 6, 3) == (len(outcome.latencies_ms), outcome.vectors, outcome.failed)


def test_a_time_limit_ends_the_load(scripted_url: str) -> None:
    """When the time is over, what was sent is answered and no more is sent: one request per client here."""
    outcome = drive(Load(scripted_url, Texts(SECRET), clients=4, seconds=0))

    assert len(outcome.latencies_ms) == 4


def test_clients_stop_when_they_are_told(scripted_url: str) -> None:
    """What was sent by then is answered and counted, and nothing more is sent."""
    told = iter([False, False, True])
    outcome = drive(Load(scripted_url, Texts(SECRET), clients=1, seconds=60), stopped=lambda: next(told))

    assert len(outcome.latencies_ms) == 3


@pytest.mark.parametrize(
    ("host", "delay_s"), [pytest.param("127.0.0.1", 0.0, id="at-once"), pytest.param("127.0.0.2", 0.01, id="late")]
)
def test_image_server_serves_by_name(host: str, delay_s: float) -> None:
    """A file is served whole under its name, whatever the query; anything else is a 404."""
    data = bytes(range(256)) * 2000
    with image_server({"a.jpg": data}, host=host, delay_s=delay_s) as images:
        address = urlsplit(images.urls["a.jpg"])
        with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)) as asking:
            answers = []
            for path in ("/a.jpg?7", "/b.jpg"):
                asking.request("GET", path)
                answer = asking.getresponse()
                answers.append((answer.status, answer.read()))

    assert [(200, data), (404, b"")] == answers
