"""Large bodies at a real pod: how much of them is held, and by whom."""

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import pytest

from core.deadline import Deadline
from core.errors import Overloaded
from pod.body import Bodies, ReceivedBody
from pod.connection import Connection, Due
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.testbed import exposition
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded, natural
from tools.testbed.process import PodProcess, pod_process
from tools.testbed.raw_http import connected, head
from tools.testbed.target import PodTarget, signed_content, signed_image, signed_text

MAX_HELD_BYTES = 4_000_000
MAX_REQUESTS = 64
# What is read at once.
PIECE = b" " * 65_536
# More than half of what is left of them beyond the mebibyte that each request has.
LARGE = {"image_b64": "A" * 2_500_000}


@pytest.fixture(scope="module")
def narrow() -> Iterator[PodProcess]:
    """A pod that holds four megabytes of large bodies."""
    settings = {"MAX_IMAGE_SIZE_BYTES": "1000000", "MAX_IMAGE_BYTES_IN_FLIGHT": str(MAX_HELD_BYTES)}
    with pod_process(settings) as process:
        yield process


def held_of_large_bodies(pod: PodProcess) -> float:
    samples = [one for one in exposition.samples(pod.base_url) if one.name == "clip_bytes_in_flight"]
    return {one.labels["kind"]: one.value for one in samples}["large_bodies"]


@contextmanager
def half_sent(pod: PodProcess) -> Iterator[None]:
    """A body of which the last bytes never come; all others have."""
    with connected(pod.base_url) as client:
        client.sendall(head(EMBED_IMAGE, f"Content-Length: {MAX_HELD_BYTES}") + b" " * (MAX_HELD_BYTES - 10))
        # They are the kernel's until the pod has read them (but for the last piece, which is not whole): a body that
        # came meanwhile would have their place.
        while held_of_large_bodies(pod) < MAX_HELD_BYTES - 1_048_576 - len(PIECE):
            pass
        yield


def test_large_bodies_are_held_within_their_budget(narrow: PodProcess) -> None:
    """One that does not fit beside what others have sent is OVERLOADED; small ones are served; all with an end."""
    target = PodTarget(narrow.base_url)
    with half_sent(narrow):
        refused = target.post(EMBED_IMAGE, json.dumps(LARGE).encode())
        beside = target.send(EMBED_TEXT, signed_text("a red circle")).code
    # The connection has ended: what it held is free again, as soon as that is noticed.
    while held_of_large_bodies(narrow):
        pass
    served = target.send(EMBED_IMAGE, LARGE).code

    # All of it was read: whoever has sent a body gets to read why it was not taken.
    assert (503, "keep-alive") == (refused.status_code, refused.headers["Connection"])
    assert "OVERLOADED" == refused.json()["error"]["code"]
    assert None is beside
    assert "AUTH_FAILED" == served


@pytest.mark.parametrize(
    ("announced", "sent"),
    [
        pytest.param(f"Content-Length: {MAX_HELD_BYTES}", PIECE, id="large"),
        pytest.param("Content-Length: 1048576", PIECE, id="a mebibyte"),
        pytest.param("Content-Length: 1048576", b"", id="nothing comes"),
        pytest.param("Transfer-Encoding: chunked", b"10000\r\n" + PIECE + b"\r\n", id="chunked"),
    ],
)
def test_announced_bytes_hold_nothing(announced: str, sent: bytes, narrow: PodProcess) -> None:
    """More clients than there may be requests say how much they will send, begin, and are in nobody's way."""
    target = PodTarget(narrow.base_url)
    with ExitStack() as silent:
        for _ in range(MAX_REQUESTS + 6):
            silent.enter_context(connected(narrow.base_url)).sendall(head(EMBED_IMAGE, announced) + sent)

        assert ["AUTH_FAILED"] * 5 == [target.send(EMBED_IMAGE, LARGE).code for _ in range(5)]
        assert None is target.send(EMBED_TEXT, signed_text("a red circle")).code


def test_what_was_answered_is_held_no_longer(narrow: PodProcess) -> None:
    """Far more bytes than are held at once, one after the other, refused and embedded ones."""
    target = PodTarget(narrow.base_url)
    picture = encoded(natural(300, 300), "PNG")
    padded = signed_content(picture) | {"ignored": "x" * 2_500_000}

    assert [None, "AUTH_FAILED"] * 10 == [
        target.send(EMBED_IMAGE, body).code for _ in range(10) for body in (padded, LARGE)
    ]


def test_body_is_let_go_of_when_its_request_runs(narrow: PodProcess, images: ImageServer) -> None:
    """It waits for an image's server, and another large body has its place."""
    url, gate = images.add_gated("/gated.png", encoded(natural(30, 30), "PNG"))
    target, codes = PodTarget(narrow.base_url), []
    body = signed_image(url) | {"ignored": "x" * 2_500_000}
    waiting = threading.Thread(target=lambda: codes.append(target.send(EMBED_IMAGE, body).code))
    waiting.start()
    gate.wait_for_request()
    beside = target.send(EMBED_IMAGE, {"image_b64": "A" * 3_900_000}).code
    gate.open()
    waiting.join()

    assert "AUTH_FAILED" == beside
    assert [None] == codes


class Arriving:
    """A connection and its body, of which a piece comes each time it is asked; `between` is called before the last."""

    def __init__(self, count: int, between: Callable[[], object] = lambda: None) -> None:
        self._left = count
        self._between = between
        self.environ = {"CONTENT_LENGTH": str(count), "wsgi.input": self}

    def read(self, count: int) -> bytes:
        if self._left <= count:
            self._between()
        self._left -= min(count, self._left)
        return b" " * min(count, self._left + count)

    @contextmanager
    def bytes_due(self, _due: Due) -> Iterator[None]:
        yield


def test_body_that_is_refused_holds_nothing_while_its_rest_is_read() -> None:
    """Nor one that is held longer than it needs to be, by an error that somebody keeps."""
    bodies = Bodies(requests=3, large_bytes=3_000_000, max_body_bytes=10_000_000)

    def read(count: int, between: Callable[[], object] = lambda: None) -> ReceivedBody:
        source = Arriving(count, between)
        return bodies.read(cast("Connection", source), source.environ, Deadline.after(60.0))

    beside: list[ReceivedBody] = []
    with pytest.raises(Overloaded) as kept:
        read(5_000_000, lambda: beside.append(read(3_900_000)))
    [between] = beside
    between.release()
    first = read(3_900_000)
    first.release()
    second = read(3_900_000)

    assert kept.value.retryable
    assert (0, 3_900_000) == (len(first.data), len(second.data))


def test_bodies_that_trickle_in_keep_no_small_one_out() -> None:
    """As many as there may be requests have their mebibyte, and more will come; the next of that size is refused."""
    bodies = Bodies(requests=3, large_bytes=3_000_000, max_body_bytes=10_000_000)
    beside: list[int] = []

    def read(count: int, between: Callable[[], object] = lambda: None) -> ReceivedBody:
        source = Arriving(count, between)
        return bodies.read(cast("Connection", source), source.environ, Deadline.after(60.0))

    def read_the_fourth() -> None:
        with pytest.raises(Overloaded):
            read(1_048_576)
        beside.extend(len(read(count).data) for count in (300, 60_000))

    more = 1_048_576 + 65_536
    read(more, lambda: read(more, lambda: read(more, read_the_fourth)))

    assert [300, 60_000] == beside


def test_full_batch_of_large_images(pod_target: PodTarget) -> None:
    """By default a body may be as large as the largest batch: here half a megabyte each, good ones and broken ones."""
    good = encoded(natural(450, 450), "PNG")
    contents = [good + bytes([number]) if number % 2 else os.urandom(len(good)) for number in range(16)]
    items = [
        signed_content(data, path=EMBED_IMAGE_BATCH, request_id=str(number)) for number, data in enumerate(contents)
    ]

    results = pod_target.send(EMBED_IMAGE_BATCH, {"items": items}).body["results"]

    assert 5_000_000 < len(base64.b64encode(b"".join(contents)))
    assert ["INVALID_IMAGE", None] * 8 == [result.get("error", {}).get("code") for result in results]
