"""A whole hostile run, and then a search through everything that was said: logs, bodies and headers."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.chaos.engine import FATAL, HANG, NAN, POISON
from tools.chaos.scenarios import chaos_pod
from tools.testbed.image_server import ImageServer
from tools.testbed.process import PodProcess, pod_process
from tools.testbed.target import signed_image, signed_text

SECRET = "a-secret-that-must-never-be-seen"
PREVIOUS = "the-secret-before-that"
QUERY = "X-Amz-Signature=f00dfeed&token=querytoken"
SOON_S = 30.0

ADDRESSES = ("169.254.169.254", "10.0.0.7", "192.168.1.1", "metadata.google.internal", "172.17.0.1", "fd00::7")

# An embedding in a log would be a long list of floats.
FLOATS = re.compile(r"(-?\d\.\d{4,}[,\s]+){4}")
SIGNATURE = re.compile(r"\b[0-9a-f]{64}\b")


def hostile_bodies(images: ImageServer) -> Iterator[tuple[str, Any]]:
    """Requests that fail in every way that is known here, each signed, so that they get as far as they can."""
    urls = [
        *(f"http://{f'[{host}]' if ':' in host else host}/latest?{QUERY}" for host in ADDRESSES),
        f"http://user:querytoken@10.0.0.7/?{QUERY}",
        f"{images.base_url}/missing.png?{QUERY}",
        images.add("/broken.png", b"\x89PNG\r\n\x1a\n broken") + f"?{QUERY}",
        images.add("/text.png", b"not an image") + f"?{QUERY}",
        f"http://127.0.0.1:9/refused?{QUERY}",
        f"http://no-such-host.invalid/?{QUERY}",
        f"http://a\\@10.0.0.7/?{QUERY}",
    ]
    for url in urls:
        yield EMBED_IMAGE, signed_image(url, secret=SECRET)
        yield EMBED_IMAGE, signed_image(url, secret="wrong")
        yield EMBED_IMAGE, signed_image(url, secret=SECRET) | {"normalize": f"?{QUERY}"}
    signed = [
        signed_image(url, path=EMBED_IMAGE_BATCH, secret=SECRET, request_id=f"item-{position}")
        for position, url in enumerate(urls[:16])
    ]
    yield EMBED_IMAGE_BATCH, {"items": signed}
    yield EMBED_IMAGE_BATCH, {"items": [*signed[1:], signed_image(urls[0], secret="wrong", request_id="x")]}
    for text in ("a red circle", POISON, NAN, "\ud800"):
        yield EMBED_TEXT, {"text": text} if text == "\ud800" else signed_text(text, secret=SECRET)
    yield EMBED_TEXT, {"text": "x", "auth": {"ts": 1703001234, "sig": "ab" * 32}}
    yield EMBED_TEXT, {"text": "x", "auth": "ab" * 32}


def run_hostile(pod: PodProcess, images: ImageServer) -> list[str]:
    """Send it all and return what was said in answers that are no vectors."""
    said = []
    for path, body in hostile_bodies(images):
        headers = {"X-Request-Timeout-Ms": "5000", "Cookie": SECRET}
        answer = requests.post(f"{pod.base_url}{path}?{QUERY}", data=json.dumps(body), headers=headers, timeout=SOON_S)
        if answer.status_code != 200 or "results" in answer.text:
            said.append(answer.text + str(answer.headers))
    return said


def assert_nothing_seen(text: str) -> None:
    forbidden = (SECRET, PREVIOUS, "X-Amz-Signature", "querytoken", "Traceback", 'File "', *ADDRESSES)

    assert [] == [word for word in forbidden if word in text]
    assert None is SIGNATURE.search(text)
    assert None is FLOATS.search(text)


SETTINGS = {
    "EMBEDDING_HMAC_SECRET": SECRET,
    "EMBEDDING_HMAC_SECRET_PREVIOUS": PREVIOUS,
    "LOG_LEVEL": "DEBUG",
    "WATCHDOG_FORWARD_S": "1",
}


@pytest.mark.parametrize("kind", ["scripted", "real"])
def test_hostile_run_says_nothing(images: ImageServer, kind: str) -> None:
    """With every level of the log on: no secret, signature, query, internal address, traceback or embedding."""
    with chaos_pod(SETTINGS) if kind == "scripted" else pod_process(SETTINGS) as pod:
        said = run_hostile(pod, images)
        log = pod.log()

    assert len(said) > 20
    assert "DOWNLOAD_ERROR" in log
    assert_nothing_seen("\n".join(said))
    assert_nothing_seen(log)


def test_faults_say_nothing() -> None:
    """A stuck and a lost device log stacks and causes; still nothing of what was sent."""
    with chaos_pod(SETTINGS) as pod:
        stuck = requests.post(url_of(pod), json=signed_text(HANG, secret=SECRET), timeout=SOON_S)
        pod.wait_for_log("ending this process")
        pod.process.terminate()
        pod.wait_for_exit()
        log = pod.log()
    with chaos_pod(SETTINGS) as pod:
        lost = requests.post(url_of(pod), json=signed_text(FATAL, secret=SECRET), timeout=SOON_S)
        pod.wait_for_log("ending this process")
        log += pod.log()

    # The stack dump is faulthandler's, with files and lines but no values; the word for it is not "Traceback".
    stacks = [line for line in log.splitlines() if line.startswith("  File ")]
    assert [] != stacks
    rest = "\n".join(line for line in log.splitlines() if not line.startswith("  File "))
    assert_nothing_seen(rest + stuck.text + lost.text)


def url_of(pod: PodProcess) -> str:
    return f"{pod.base_url}{EMBED_TEXT}?{QUERY}"
