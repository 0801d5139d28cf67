"""`make demo`: a pod if none answers, a video if none is given, its index, and the page to search it on."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from clip_embedding_client import BackendName, ClientSettings, ClipClient, ClipClientError
from clip_embedding_client.commands.smoke import with_local_defaults
from clip_embedding_client.settings import is_loopback
from tqdm import tqdm

from examples.video_search.page import PORT, create_app, server
from examples.video_search.scenes import VideoUnreadable
from examples.video_search.store import MixedModels, Store
from examples.video_search.worker import Worker
from models.shapes_video import EXAMPLE, make_video

_ROOT = Path(__file__).resolve().parent.parent
_FOLDER = Path(".cache/video-search")
_LOOK_S = 0.25
_END_S = 60.0


class DemoFailed(Exception):
    """The message is one line, for the terminal."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What the environment says; raises `DemoFailed` naming the variable that is wrong.

    `video` is None for the drawn one, which has an index of its own: searches for holidays find no triangles.
    """

    video: Path | None
    index: Path
    port: int
    opens_browser: bool

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Demo":
        video = environ.get("VIDEO", "")
        port = environ.get("DEMO_PORT") or str(PORT)
        if not port.isdecimal() or int(port) > 65535:
            raise DemoFailed("DEMO_PORT must be the number of a port")
        index = environ.get("DEMO_INDEX") or _FOLDER / ("videos" if video else "drawn")
        return cls(Path(video) if video else None, Path(index), int(port), environ.get("DEMO_OPEN") != "0")


def main(environ: Mapping[str, str]) -> int:
    """Serve until it is interrupted. Returns the exit status."""
    try:
        demo = Demo.of(environ)
        with _pod(environ):
            _run(demo, client_settings(environ))
    except (DemoFailed, VideoUnreadable, MixedModels, ClipClientError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def client_settings(environ: Mapping[str, str]) -> ClientSettings:
    """The environment's, else those of the pod of `make run`, with the handler of `make run-serverless` behind it."""
    if not _asks_pod(environ):
        return ClientSettings.from_environ(environ)
    fallback = {
        "CLIP_FALLBACK_BACKEND": BackendName.SERVERLESS.value,
        "RUNPOD_CLIP_ENDPOINT_ID": ".",
        "RUNPOD_BASE_URL": f"http://127.0.0.1:{environ.get('SERVERLESS_PORT', '8001')}",
    }
    local = with_local_defaults(environ, "pod", Path(".env").absolute())
    given = {name: value for name, value in environ.items() if name in fallback and value}
    return ClientSettings.from_environ(local | fallback | given)


def _asks_pod(environ: Mapping[str, str]) -> bool:
    return environ.get("CLIP_INFERENCE_BACKEND", "") in ("", BackendName.POD.value)


@contextmanager
def _pod(environ: Mapping[str, str]) -> Iterator[None]:
    """A pod at the configured address while the block runs: the one that is there, or one of our own."""
    address = environ.get("CLIP_POD_BASE_URL") or f"http://127.0.0.1:{environ.get('PORT') or '8000'}"
    if not _asks_pod(environ) or _status(address) is not None:
        yield
        return
    if not is_loopback(address):
        raise DemoFailed(f"nothing answers at {address} (CLIP_POD_BASE_URL)")
    print(f"no pod answers at {address}: starting one", file=sys.stderr)
    command = [sys.executable, "-m", "tools.run_local", "pod"]
    process = subprocess.Popen(command, cwd=_ROOT, env=_quiet(environ, urlsplit(address).port or 80))  # noqa: S603 - ours
    try:
        while _status(address) != 200:
            if process.poll() is not None:
                raise DemoFailed("the pod did not start: it says above why")
            time.sleep(_LOOK_S)
        yield
    finally:
        process.terminate()
        process.wait(_END_S)


def _quiet(environ: Mapping[str, str], port: int) -> dict[str, str]:
    """The pod's environment: its log would hide how far the index is."""
    return {"LOG_LEVEL": "WARNING", **environ, "PORT": str(port)}


def _status(address: str) -> int | None:
    """Of a pod's readiness; None if nobody listens."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:  # noqa: S310 - http, as the client's
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _run(demo: Demo, settings: ClientSettings) -> None:
    store, video = Store(demo.index), demo.video
    if video is None:
        video = demo.index / "drawn.webm"
        make_video(video)
    with ClipClient(store.accepting(settings), on_event=lambda event: tqdm.write(str(event))) as client:
        missing = Worker(store, client).index(video)
        if missing:
            print(f"demo: {len(missing)} scenes are missing; the next run tries them again", file=sys.stderr)
        example = {} if demo.video else {"example": EXAMPLE}
        app = create_app(store, client, primary=settings.clip_inference_backend.value, **example)
        httpd = server(app, demo.port)
        address = f"http://127.0.0.1:{httpd.port}/"
        print(f"\n  {store.count()} scenes can be searched on {address}   (Ctrl-C ends it)\n", flush=True)
        if demo.opens_browser:
            webbrowser.open(address)
        httpd.serve_forever()


if __name__ == "__main__":
    # However it ends, the pod that it started ends with it.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        sys.exit(main(os.environ))
    except KeyboardInterrupt:
        sys.exit(0)
