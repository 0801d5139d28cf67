"""The life of a real gunicorn: how it starts, refuses to start, drains and ends."""

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from shared_auth import Authenticator, text_payload_id
from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.chaos.scenarios import COMMAND
from tools.testbed.image_server import ImageServer
from tools.testbed.process import GUNICORN, POD, TINY_MODEL, PodProcess, pod_process
from tools.testbed.raw_http import connected
from tools.testbed.target import signed_content, signed_image, signed_text

SOON_S = 30.0


@contextmanager
def model_copy(directory: Path) -> Iterator[Path]:
    """A copy of the bundled model that a test may break."""
    copied = directory / "model"
    shutil.copytree(TINY_MODEL, copied)
    yield copied


def assert_refused(settings: dict[str, str], *expected: str) -> None:
    """The pod ends by itself with a failure and one line of its own that holds every expected word."""
    with pod_process(settings, ready=False) as pod:
        status = pod.wait_for_exit()
        log = pod.log()

    assert 0 != status
    assert "Traceback" not in log
    [line] = [line for line in log.splitlines() if "cannot start" in line]
    assert [] == [word for word in expected if word not in line]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"EMBEDDING_HMAC_SECRET": ""}, "EMBEDDING_HMAC_SECRET", id="no secret"),
        pytest.param({"MAX_BATCH_SIZE": "many"}, "MAX_BATCH_SIZE", id="wrong setting"),
        pytest.param({"CLIP_MODEL": "/nowhere/model"}, "CLIP_MODEL", id="no such model"),
        pytest.param({"CLIP_DEVICE": "cuda:7"}, "CLIP_DEVICE", id="no such device"),
        pytest.param({"CLIP_DTYPE": "float16", "CLIP_DEVICE": "cpu"}, "CLIP_DTYPE", id="dtype not for the device"),
    ],
)
def test_wrong_setting_refuses_the_start(settings: dict[str, str], expected: str) -> None:
    """A setting that cannot work ends the process with one line that names it."""
    assert_refused(settings, expected)


def code_of_text(pod: PodProcess, secret: str) -> str:
    """What comes of a text that is signed with `secret`: OK or an error's code."""
    auth = Authenticator([secret]).sign(EMBED_TEXT, text_payload_id("x")).as_dict()
    response = requests.post(pod.base_url + EMBED_TEXT, json={"text": "x", "auth": auth}, timeout=30)
    return str(response.json().get("error", {"code": "OK"})["code"])


def test_port_in_use_refuses_the_start() -> None:
    """A taken port is named, with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        assert_refused({"PORT": port}, "PORT", port, "in use")


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "config.json"])
def test_incomplete_model_refuses_the_start(missing: str, tmp_path: Path) -> None:
    """A model directory without one of its files names the file."""
    with model_copy(tmp_path) as model:
        (model / missing).unlink()

        assert_refused({"CLIP_MODEL": str(model)}, "CLIP_MODEL", missing.partition(".")[0])


def test_cut_off_weights_refuse_the_start(tmp_path: Path) -> None:
    """Half a download is not a model, and is never filled up with random numbers."""
    with model_copy(tmp_path) as model:
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])

        assert_refused({"CLIP_MODEL": str(model)}, "CLIP_MODEL", "weights")


def test_insecure_needs_the_flag_and_shows_it() -> None:
    """Without a secret but with the flag the pod serves unsigned requests, warns, and says so in /health."""
    with pod_process({"EMBEDDING_HMAC_SECRET": "", "ALLOW_INSECURE_AUTH": "1"}) as pod:
        health = requests.get(pod.base_url + "/health", timeout=SOON_S).json()
        answer = requests.post(pod.base_url + EMBED_TEXT, json={"text": "a red circle"}, timeout=SOON_S)
        warnings = [line for line in pod.log_lines() if line["level"] == "WARNING"]

    assert (True, 200) == (health["insecure_auth"], answer.status_code)
    assert 1 == len([line for line in warnings if "ALLOW_INSECURE_AUTH" in line["message"]])


def test_answers_while_loading(tmp_path: Path) -> None:
    """Before the model is there: health is a 503 that says so, ping a 204, livez a 200, work a retryable 503."""
    # Loading waits for it.
    model = tmp_path / "model"
    with pod_process({"CHAOS_MODEL": str(model)}, command=COMMAND, ready=False) as pod:
        pod.wait_for_log("Booting worker")
        get = {path: requests.get(pod.base_url + path, timeout=SOON_S) for path in ("/health", "/ping", "/livez")}
        work = requests.post(pod.base_url + EMBED_TEXT, json=signed_text("x"), timeout=SOON_S)
        model.touch()
        pod.wait_until_ready()

    assert {"/health": 503, "/ping": 204, "/livez": 200} == {path: answer.status_code for path, answer in get.items()}
    assert ("loading", None) == (get["/health"].json()["status"], get["/health"].json()["fingerprint"])
    assert b"" == get["/ping"].content
    assert (503, "NOT_READY", True) == (
        work.status_code,
        work.json()["error"]["code"],
        work.json()["error"]["retryable"],
    )
    assert "Retry-After" in work.headers


def test_nothing_is_monkey_patched() -> None:
    """In a running worker threading, socket and the rest are Python's own, and torch is not there yet."""
    with pod_process(ready=False, command=[*GUNICORN, "tools.testbed.introspection_app:app"]) as pod:
        told = requests.get(pod.base_url, timeout=SOON_S).json()

    assert ([], False) == (told["patched"], told["torch"])


def test_request_has_one_line_in_the_log() -> None:
    """The service's own. gunicorn's access line would hold the whole URL."""
    with pod_process() as pod, requests.Session() as session:
        # Over one connection: whatever is written of the first is there before the second is read.
        for text in ("first", "second"):
            session.post(f"{pod.base_url}{EMBED_TEXT}?token={text}", json=signed_text(text), timeout=SOON_S)
        lines = [line for line in pod.log().splitlines() if EMBED_TEXT in line]

    assert 2 == len(lines)
    assert all("token" not in line for line in lines)


def test_what_is_loaded_is_kept_from_the_collector() -> None:
    """Once loading has ended, a full collection no longer goes through every module and stops all threads meanwhile."""
    with pod_process(ready=False, command=[*GUNICORN, "tools.testbed.introspection_app:app"]) as pod:
        until_s = time.monotonic() + SOON_S
        while not (frozen := requests.get(pod.base_url, timeout=SOON_S).json()["frozen"]):
            assert time.monotonic() < until_s

    assert frozen


def test_master_holds_no_model(pod: PodProcess) -> None:
    """The engine is loaded in the worker, after the fork, and not in gunicorn's master."""
    master = psutil.Process(pod.process.pid)
    holders = [
        any("libopenvino" in mapped.path for mapped in process.memory_maps())
        for process in [master, *master.children()]
    ]

    assert [False, True] == holders


def test_sigterm_answers_what_was_accepted_and_refuses_new_work(images: ImageServer) -> None:
    """A request in flight gets its vector; a new one on an open connection is told to go elsewhere; exit status 0."""
    url, gate = images.add_gated("/gated.png", (TINY_MODEL / "examples" / "red-circle.png").read_bytes())
    answers: list[requests.Response] = []
    with pod_process() as pod, requests.Session() as open_connection:
        operation = pod.base_url + EMBED_IMAGE
        sender = threading.Thread(
            target=lambda: answers.append(requests.post(operation, json=signed_image(url), timeout=SOON_S))
        )
        assert 200 == open_connection.get(pod.base_url + "/health", timeout=SOON_S).status_code
        sender.start()
        gate.wait_for_request()
        pod.process.terminate()
        pod.wait_for_log("Handling signal: term")
        late = wait_for_refusal(open_connection, pod.base_url + EMBED_TEXT)
        gate.open()
        sender.join(SOON_S)
        status = pod.wait_for_exit()

    assert (503, "NOT_READY") == (late.status_code, late.json()["error"]["code"])
    assert [200] == [answer.status_code for answer in answers]
    assert 0 == status


def wait_for_refusal(session: requests.Session, url: str) -> requests.Response:
    """The signal reaches the worker a moment after the master: until then work is still accepted."""
    for _ in range(1000):
        answer = session.post(url, data=json.dumps(signed_text("x")), timeout=SOON_S)
        if answer.status_code != 200:
            return answer
    raise AssertionError("the pod never refused work")


def test_reload_reads_the_settings_anew_if_it_can(tmp_path: Path) -> None:
    """A secret that was mounted anew counts from then on; one that is not there ends nobody who serves."""
    secret = tmp_path / "secret"
    secret.write_text("the first one")
    with pod_process({"EMBEDDING_HMAC_SECRET": "", "EMBEDDING_HMAC_SECRET_FILE": str(secret)}) as pod:
        secret.unlink()
        pod.process.send_signal(signal.SIGHUP)
        refusal = pod.wait_for_log("cannot reload")["message"]
        refused = code_of_text(pod, "the first one")
        secret.write_text("the second one")
        pod.process.send_signal(signal.SIGHUP)
        pod.wait_for_log("Worker exiting")
        replaced = [code_of_text(pod, key) for key in ("the first one", "the second one")]
        status = pod.terminate()

    assert "EMBEDDING_HMAC_SECRET_FILE" in refusal
    assert "OK" == refused
    assert ["AUTH_FAILED", "OK"] == replaced
    assert 0 == status


def test_connections_leave_descriptors_for_the_work() -> None:
    """As many strangers as are let in, where a process may have only so many files open unless it asks for more."""
    command = ["sh", "-c", 'ulimit -Sn 128; exec "$@"', "pod", *POD]
    picture = (TINY_MODEL / "examples" / "red-circle.png").read_bytes()
    with pod_process({"MAX_CONCURRENT_REQUESTS": "8"}, command=command) as pod, ExitStack() as strangers:
        session = strangers.enter_context(requests.Session())
        assert 200 == session.get(pod.base_url + "/livez", timeout=SOON_S).status_code
        for _ in range(127):
            strangers.enter_context(connected(pod.base_url))
        statuses = [
            session.post(pod.base_url + EMBED_IMAGE, json=signed_content(picture), timeout=SOON_S).status_code,
            session.get(pod.base_url + "/metrics", timeout=SOON_S).status_code,
        ]

    assert [200, 200] == statuses


def test_sigint_ends_an_idle_pod() -> None:
    """Ctrl-C leaves nothing behind."""
    with pod_process() as pod:
        children = psutil.Process(pod.process.pid).children(recursive=True)
        pod.process.send_signal(2)
        status = pod.wait_for_exit()
        _, alive = psutil.wait_procs(children, timeout=SOON_S)

    assert (0, []) == (status, alive)
