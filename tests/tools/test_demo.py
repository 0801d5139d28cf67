"""`make demo`: one command from nothing to a page with results, which takes with it what it has started."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from models.shapes_video import STORY, make_video
from tools.demo import Demo, client_settings, main
from tools.testbed.loopback import kept_port
from tools.testbed.process import EXIT_TIMEOUT_S, READY_TIMEOUT_S, ROOT, SECRET, PodProcess, environment

SECRET_ONLY = {"EMBEDDING_HMAC_SECRET": SECRET}


@contextmanager
def demo(settings: Mapping[str, str], log: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run it until the block ends; the process, and the page's address once it answers."""
    with kept_port() as port, log.open("wb") as output:
        given = environment(PORT="", **settings, DEMO_PORT=str(port), DEMO_OPEN="0", PYTHONPATH="client/src")
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.demo"], cwd=ROOT, env=given, stdout=output, stderr=output
        )
        try:
            wait_for(process, f"http://127.0.0.1:{port}/", log)
            yield process, f"http://127.0.0.1:{port}/"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(EXIT_TIMEOUT_S)


def wait_for(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until_s = time.monotonic() + READY_TIMEOUT_S
    while not answers(url):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until_s, log.read_text()
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=READY_TIMEOUT_S / 4).ok
    except (requests.ConnectionError, requests.Timeout):
        # A process that has just begun, or is about to end, may take a connection that it never answers.
        return False


def test_one_command_goes_from_nothing_to_results(tmp_path: Path) -> None:
    """It draws a video, starts a pod, indexes and serves; and when it ends, the pod has ended too."""
    with kept_port() as pod_port:
        pod_url = f"http://127.0.0.1:{pod_port}"
        settings = {"CLIP_POD_BASE_URL": pod_url, "DEMO_INDEX": str(tmp_path / "index")}
        try:
            with demo(settings, tmp_path / "log") as (process, page):
                text = requests.get(page, params={"q": "a red circle"}, timeout=30).text
                pod_answered = answers(pod_url + "/readyz")
        finally:
            (ROOT / ".cache" / "run" / f"{pod_port}.json").unlink(missing_ok=True)
        pod_answers = answers(pod_url + "/readyz")

    assert "#t=0.0,2.0" in text[: text.index("</li>")]
    assert pod_answered
    assert (0, False) == (process.returncode, pod_answers)
    assert "no pod answers" in (tmp_path / "log").read_text()


def test_pod_that_runs_is_used_for_a_video_of_ones_own(pod: PodProcess, tmp_path: Path) -> None:
    """And it goes on when the demo has ended."""
    make_video(tmp_path / "my holiday.webm", STORY[:3])
    settings = {
        "CLIP_POD_BASE_URL": pod.base_url,
        "DEMO_INDEX": str(tmp_path / "index"),
        "VIDEO": str(tmp_path / "my holiday.webm"),
    }
    with demo(settings, tmp_path / "log") as (_, page):
        text = requests.get(page, params={"q": "a blue square"}, timeout=30).text

    assert 3 == text.count("my holiday.webm") == text.count("<li>")
    assert answers(pod.base_url + "/readyz")
    assert "no pod answers" not in (tmp_path / "log").read_text()


def test_drawn_and_own_videos_have_indexes_of_their_own() -> None:
    """A search in a holiday finds no triangles; `DEMO_INDEX` chooses another folder."""
    folders = [Demo.of(environ).index for environ in ({}, {"VIDEO": "a.mp4"}, {"DEMO_INDEX": "mine"})]

    assert [Path(".cache/video-search/drawn"), Path(".cache/video-search/videos"), Path("mine")] == folders


@pytest.mark.parametrize("port", ["eighty", "-1", "65536", "80.5"])
def test_wrong_port_is_named(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    assert 1 == main({"DEMO_PORT": port})
    assert "DEMO_PORT" in capsys.readouterr().err


def test_defaults_are_those_of_make_run() -> None:
    """The pod first and the handler behind it, each at its own port."""
    settings = client_settings({**SECRET_ONLY, "PORT": "7000", "SERVERLESS_PORT": "7001"})

    assert ("runpod_pod", "runpod_serverless") == tuple(backend.value for backend in settings.backends())
    assert ("http://127.0.0.1:7000", "http://127.0.0.1:7001", ".") == (
        settings.clip_pod_base_url,
        settings.runpod_base_url,
        settings.runpod_clip_endpoint_id,
    )


def test_what_is_set_wins() -> None:
    """A deployed pod with an endpoint as its fallback, or another backend altogether."""
    deployed = {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": "https://pod.example",
        "CLIP_FALLBACK_BACKEND": "runpod_serverless",
        "RUNPOD_CLIP_ENDPOINT_ID": "abc123",
        "RUNPOD_BASE_URL": "https://api.runpod.ai/v2",
    }
    pod, local = (client_settings({**SECRET_ONLY, **each}) for each in (deployed, {"CLIP_INFERENCE_BACKEND": "local"}))

    assert ("https://pod.example", "abc123", "https://api.runpod.ai/v2") == (
        pod.clip_pod_base_url,
        pod.runpod_clip_endpoint_id,
        pod.runpod_base_url,
    )
    assert ["local"] == [backend.value for backend in local.backends()]


def test_pod_elsewhere_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Only on this machine one can be started."""
    # Loopback too, but no address that a pod of ours would take.
    assert 1 == main({"CLIP_POD_BASE_URL": "http://127.0.0.9:9", "DEMO_INDEX": str(tmp_path)})
    assert "nothing answers at http://127.0.0.9:9 (CLIP_POD_BASE_URL)" in capsys.readouterr().err


def test_missing_video_is_named(pod: PodProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    environ = {"VIDEO": str(tmp_path / "holiday.mp4"), "DEMO_INDEX": str(tmp_path / "index")}

    assert 1 == main({**SECRET_ONLY, **environ, "CLIP_POD_BASE_URL": pod.base_url})
    assert "holiday.mp4" in capsys.readouterr().err
