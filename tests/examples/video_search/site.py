"""What the tests of the example stand on: the real client's settings, an index, the page behind its real server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import requests
from clip_embedding_client import ClientSettings, ClipClient
from PIL import Image
from playwright.sync_api import Page

from examples.video_search.page import create_app, server
from examples.video_search.store import Store
from examples.video_search.worker import Worker
from models.shapes_video import EXAMPLE
from tools.testbed.loopback import kept_port
from tools.testbed.process import READY_TIMEOUT_S, SECRET, handler_process

# Where nobody listens.
NOWHERE = "http://127.0.0.1:9"
FRAMES_PER_S = 12


def client_environ(pod_url: str, **changed: str) -> dict[str, str]:
    """Of a worker or a page, with a pod alone unless `changed` names a fallback."""
    given = {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": pod_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
        "CLIP_RETRY_ATTEMPTS": "2",
    }
    return given | changed


def with_fallback(handler_url: str) -> dict[str, str]:
    """The handler on the SDK's local server, as `make run-serverless` starts it."""
    return {
        "CLIP_FALLBACK_BACKEND": "runpod_serverless",
        "RUNPOD_BASE_URL": handler_url,
        "RUNPOD_CLIP_ENDPOINT_ID": ".",
    }


def settings(pod_url: str, **changed: str) -> ClientSettings:
    return ClientSettings.from_environ(client_environ(pod_url, **changed))


def index(video: Path, store: Store, given: ClientSettings) -> None:
    """Index all of a video."""
    with ClipClient(store.accepting(given)) as client:
        assert [] == Worker(store, client).index(video)


def write_video(
    path: Path, frames: list[Image.Image], *, key_frames: int = 250, start_s: int = 0, stands_s: int = 0
) -> Path:
    """H.264, as cameras and phones write it, in what the name's ending says; its first frame is of `start_s`.

    The first half's last frame stands for `stands_s`: what does not change has no frames, as in a recorded screen.
    """
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        # Not where the picture changes: a key frame there would be the right one by chance.
        stream.gop_size, stream.options = key_frames, {"x264-params": "scenecut=0"}
        for number, image in enumerate(frames, start_s * FRAMES_PER_S):
            frame = av.VideoFrame.from_image(image)
            stood = stands_s * FRAMES_PER_S if number - start_s * FRAMES_PER_S >= len(frames) // 2 else 0
            frame.pts, frame.time_base = number + stood, Fraction(1, FRAMES_PER_S)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@dataclass(frozen=True, slots=True)
class Site:
    """A page that is served."""

    base_url: str
    store: Store


@contextmanager
def site(store: Store, given: ClientSettings) -> Iterator[Site]:
    """Serve the page over an index until the block ends."""
    with ClipClient(store.accepting(given)) as client:
        app = create_app(store, client, primary=given.clip_inference_backend.value, example=EXAMPLE)
        httpd = server(app, 0)
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{httpd.port}", store)
        finally:
            httpd.shutdown()
            thread.join()
            httpd.server_close()


def wait_until(page: Page, expression: str, *, timeout_s: float = 60.0) -> None:
    """Ask the page until a JavaScript expression is true: Playwright's own wait is forbidden by the page's policy."""
    until_s = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < until_s, f"never true: {expression}\n{page.content()}"
        page.wait_for_timeout(50)


@contextmanager
def local_handler() -> Iterator[str]:
    """A handler on the SDK's local server, as `make run-serverless` starts it; its URL."""
    arguments = ["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port"]
    with kept_port() as port, handler_process({}, [*arguments, str(port)]) as process:
        url = f"http://127.0.0.1:{port}"
        until_s = time.monotonic() + READY_TIMEOUT_S
        while not _answers(url):
            assert process.process.poll() is None, process.log()
            assert time.monotonic() < until_s, process.log()
            time.sleep(0.1)
        yield url


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/docs", timeout=5).ok
    except (requests.ConnectionError, requests.Timeout):
        return False
