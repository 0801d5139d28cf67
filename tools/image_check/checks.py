"""What an image must do and must not hold. Each check returns what was seen, or raises `AssertionError`."""

# ruff: noqa: S101 - a check is an assertion; this never runs with -O

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.image_check.buildah import Image
from tools.image_check.container import READY_TIMEOUT_S, Container, finished, started
from tools.testbed.control_plane import ControlPlane, control_plane
from tools.testbed.image_server import image_server
from tools.testbed.process import SECRET, TINY_MODEL
from tools.testbed.target import HandlerTarget, PodTarget, Target, signed_image, signed_text, without

# docker stop gives ten seconds; what is in flight here takes far less.
GRACE_S = 10.0

_COMPILERS = ("gcc", "cc", "g++", "clang", "make", "nvcc", "ld")
_PLACES = ("usr/bin", "usr/local/bin", "venv/bin")
_LEFT_OVER = ("app/tests", "app/clip_embedding_client", "root/.cache", "tmp/pip*", "build/core", "build/models")

_WRITE = """
import sys
for path in ("/x", "/app/x", "/model/x", "/venv/x"):
    try:
        open(path, "w")
    except OSError:
        continue
    sys.exit("could write " + path)
open("/tmp/x", "w").write("x")
"""


@dataclass(frozen=True, slots=True)
class Built:
    """An image, its unpacked root, and what it was built with."""

    image: Image
    root: Path
    commit: str
    version: str
    fingerprint: str


Check = Callable[[Built], str]


def refuses_to_start_without_a_secret(built: Built) -> str:
    status, log = finished(built.image, built.root, {"PORT": "0"})
    assert status != 0, "it started"
    assert "EMBEDDING_HMAC_SECRET is not set" in log, log
    return f"status {status}: {log.strip().splitlines()[-1][:90]}"


def refuses_to_start_without_the_gpu_that_is_asked_for(built: Built) -> str:
    """As an image for GPUs does, which sets this itself; a CPU image leaves the choice to the service."""
    assert built.image.environment["CLIP_DEVICE"] == "auto", built.image.environment
    settings = {"PORT": "0", "EMBEDDING_HMAC_SECRET": SECRET, "CLIP_DEVICE": "cuda"}
    status, log = finished(built.image, built.root, settings)
    [line] = [line for line in log.splitlines() if "cannot start" in line]
    assert status != 0, "it started"
    assert "CLIP_DEVICE: cuda is not here: torch " in line, log
    return f"status {status}: {line[line.index('CLIP_DEVICE') :][:90]}"


def root_is_read_only_and_tmp_is_not(built: Built) -> str:
    status, log = finished(built.image, built.root, {}, ["python", "-c", _WRITE])
    assert status == 0, log
    return "/, /app, /model and /venv refuse, /tmp takes"


def holds_no_compiler_cache_or_test(built: Built) -> str:
    compilers = [place for place in _PLACES for name in _COMPILERS if (built.root / place / name).exists()]
    left_over = [str(path) for pattern in _LEFT_OVER for path in built.root.glob(pattern)]
    assert not compilers, compilers
    assert not left_over, left_over
    return f"none of {', '.join(_COMPILERS)}; no package cache, no tests"


def labels_say_version_and_commit(built: Built) -> str:
    labels = built.image.config["Labels"]
    assert labels["org.opencontainers.image.version"] == built.version, labels
    assert labels["org.opencontainers.image.revision"] == built.commit, labels
    return f"{built.version}, {built.commit}"


def serves_over_http(built: Built) -> str:
    """Health, text, image, refusals, health check, and a clean end."""
    port = _free_port()
    settings = {"EMBEDDING_HMAC_SECRET": SECRET, "PORT": str(port), "DOWNLOAD_ALLOW_HOSTS": "127.0.0.1"}
    base_url = f"http://127.0.0.1:{port}"
    started_s = time.monotonic()
    with started(built.image, built.root, settings) as container:
        first = _wait_until_ready(container, base_url)
        ready_s = time.monotonic() - started_s
        _require_ordinary_process(container)
        health = requests.get(base_url + "/health", timeout=10).json()
        _require_identity(built, health)
        _require_contract(PodTarget(base_url))
        assert requests.get(base_url + "/ping", timeout=10).status_code == 200
        _require_health_check(built, port)
        status, stop_s = container.terminate(GRACE_S)
    assert status == 0, f"status {status} after SIGTERM"
    return (
        f"/ping {first} while loading, ready after {ready_s:.1f} s, process 1 is uid 10001 without capabilities,"
        f" stopped {stop_s:.1f} s after SIGTERM"
    )


def serves_jobs(built: Built) -> str:
    """Health, text, image and refusals as jobs, and a clean end."""
    with control_plane() as plane:
        settings = {"EMBEDDING_HMAC_SECRET": SECRET, "DOWNLOAD_ALLOW_HOSTS": "127.0.0.1", **plane.worker_environment()}
        started_s = time.monotonic()
        with started(built.image, built.root, settings) as container:
            health = _first_answer(plane, container)
            ready_s = time.monotonic() - started_s
            _require_ordinary_process(container)
            _require_identity(built, health)
            _require_contract(HandlerTarget(plane))
            status, stop_s = container.terminate(GRACE_S)
    assert status == 0, f"status {status} after SIGTERM"
    return f"first job answered after {ready_s:.1f} s, stopped {stop_s:.1f} s after SIGTERM"


def has_no_runpod_sdk(built: Built) -> str:
    return _lacks(built, "runpod", "serverless")


def has_no_web_server(built: Built) -> str:
    return _lacks(built, "gunicorn", "pod")


COMMON: tuple[Check, ...] = (
    refuses_to_start_without_a_secret,
    refuses_to_start_without_the_gpu_that_is_asked_for,
    root_is_read_only_and_tmp_is_not,
    holds_no_compiler_cache_or_test,
    labels_say_version_and_commit,
)
POD: tuple[Check, ...] = (*COMMON, has_no_runpod_sdk, serves_over_http)
SERVERLESS: tuple[Check, ...] = (*COMMON, has_no_web_server, serves_jobs)


def _lacks(built: Built, *modules: str) -> str:
    code = "import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, sys.argv[1:])))"
    status, log = finished(built.image, built.root, {}, ["python", "-c", code, *modules])
    assert status == 0, f"one of {modules} can be imported: {log}"
    return f"no {', no '.join(modules)}"


def _wait_until_ready(container: Container, base_url: str) -> int:
    """Return the first status of /ping that was not 200, or 200 if it was ready at once."""
    first = 200
    until_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until_s and container.process.poll() is None:
        try:
            status = requests.get(base_url + "/ping", timeout=5).status_code
        except requests.ConnectionError:
            time.sleep(0.1)
            continue
        if status == 200:
            return first
        first = status
        time.sleep(0.1)
    raise AssertionError(f"not ready:\n{container.log()}")


def _first_answer(plane: ControlPlane, container: Container) -> dict[str, Any]:
    job = plane.submit({"path": "/health"})
    until_s = time.monotonic() + READY_TIMEOUT_S
    while not job.done.wait(0.2):
        assert container.process.poll() is None, container.log()
        assert time.monotonic() < until_s, container.log()
    body: dict[str, Any] = job.status()["output"]
    return body


def _require_ordinary_process(container: Container) -> None:
    status = container.status()
    assert status["Uid"].split() == ["10001"] * 4, status["Uid"]
    assert int(status["CapEff"], 16) == 0, status["CapEff"]
    assert status["NSpid"].split()[-1] == "1", status["NSpid"]
    assert container.root_is_read_only()


def _require_identity(built: Built, health: dict[str, Any]) -> None:
    assert health["status"] == "ok", health
    assert health["version"] == built.version, health
    assert health["commit"] == built.commit, health
    assert health["fingerprint"] == built.fingerprint, health
    assert health["insecure_auth"] is False, health


def _require_contract(target: Target) -> None:
    with image_server() as images:
        url = images.add("/red-circle.png", (TINY_MODEL / "examples" / "red-circle.png").read_bytes())
        image = target.send(EMBED_IMAGE, signed_image(url))
        texts = {text: target.send(EMBED_TEXT, signed_text(text)) for text in ("a red circle", "a blue square")}
        unsigned = target.send(EMBED_TEXT, without(signed_text("a red circle"), "auth"))
    for answer in (image, *texts.values()):
        assert answer.code is None, answer.body
    assert unsigned.code == "AUTH_FAILED", unsigned.body
    similarity = {text: float(image.vector @ answer.vector) for text, answer in texts.items()}
    assert similarity["a red circle"] > similarity["a blue square"], similarity


def _require_health_check(built: Built, port: int) -> None:
    kind, *command = built.image.config["Healthcheck"]["Test"]
    assert kind == "CMD", "the health check must not need a shell"
    well, _ = finished(built.image, built.root, {"PORT": str(port)}, command)
    nobody, _ = finished(built.image, built.root, {"PORT": str(_free_port())}, command)
    assert (well, nobody) == (0, 1), (well, nobody)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
