"""The image processes of a real pod with the bundled model: what they know, and whom they outlive."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import requests

from shared_auth.contract import EMBED_IMAGE_BATCH
from tools.chaos.strangers import image_processes
from tools.testbed.image_server import ImageServer
from tools.testbed.process import SECRET, TINY_MODEL, PodProcess, pod_process
from tools.testbed.target import signed_batch

SOON_S = 60.0
RED = (TINY_MODEL / "examples" / "red-circle.png").read_bytes()
BLUE = (TINY_MODEL / "examples" / "blue-square.png").read_bytes()

# What belongs to the model, as files and as libraries.
MODEL_PARTS = ("torch", "openvino", "safetensors", "tokenizers", str(TINY_MODEL))


def started(pod: PodProcess) -> list[psutil.Process]:
    processes = [psutil.Process(pid) for pid in image_processes(pod)]
    assert processes
    return processes


def test_image_processes_know_no_secret_and_no_model(pod: PodProcess) -> None:
    """Neither is in their environment, in their arguments, or mapped into them; nor is a file of the model open."""
    for process in started(pod):
        told = Path(f"/proc/{process.pid}/environ").read_bytes() + Path(f"/proc/{process.pid}/cmdline").read_bytes()
        held = Path(f"/proc/{process.pid}/maps").read_text() + str(process.open_files())

        assert SECRET.encode() not in told
        assert b"HMAC" not in told
        assert [] == [part for part in MODEL_PARTS if part in held]


def test_image_processes_hold_no_door_of_the_pod(pod: PodProcess) -> None:
    """No listener, no connection of a client: all that was inherited is a pair of sockets and a memory."""
    for process in started(pod):
        assert [] == [connection for connection in process.net_connections("inet") if connection.status == "LISTEN"]


def test_killed_image_processes_lose_nothing(images: ImageServer) -> None:
    """All of them are killed while a batch's images are downloaded: every image has its vector, each in its place."""
    gated = [images.add_gated(f"/{number}.kill", (RED, BLUE)[number % 2]) for number in range(8)]
    answers: list[requests.Response] = []
    with pod_process() as pod:
        url, body = pod.base_url + EMBED_IMAGE_BATCH, signed_batch([url for url, _ in gated])
        asking = threading.Thread(target=lambda: answers.append(requests.post(url, json=body, timeout=SOON_S)))
        asking.start()
        for _, gate in gated:
            gate.wait_for_request()
        killed = started(pod)
        for process in killed:
            os.kill(process.pid, signal.SIGKILL)
        for _, gate in gated:
            gate.wait_for_request()
            gate.open()
        asking.join(SOON_S)
        afterwards = image_processes(pod)
        workers = [line for line in pod.log_lines() if str(line["message"]).startswith("Booting worker")]

    [answer] = answers
    vectors = [result["embedding"] for result in answer.json()["results"]]
    assert 8 == len(vectors)
    assert all(vectors[number] == pytest.approx(vectors[number % 2], abs=1e-3) for number in range(8))
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
    assert afterwards.isdisjoint(process.pid for process in killed)
    assert 1 == len(workers)


@pytest.mark.parametrize(
    "number", [pytest.param(number, id=number.name) for number in (signal.SIGTERM, signal.SIGKILL)]
)
def test_image_processes_end_with_the_pod(number: signal.Signals) -> None:
    """Told to end or not, and also when it is the worker alone that is killed."""
    with pod_process() as pod:
        first = started(pod)
        worker = first[0].parent()
        assert worker is not None
        if number is signal.SIGKILL:
            worker.kill()
        else:
            pod.process.terminate()
            pod.wait_for_exit()
        _, alive = psutil.wait_procs(first, timeout=SOON_S)
        if number is signal.SIGKILL:
            # The next worker has its own, and they end with the pod at the end of the block.
            _wait_for_others(pod, {process.pid for process in first})

    assert [] == alive


def _wait_for_others(pod: PodProcess, before: set[int]) -> None:
    until_s = time.monotonic() + SOON_S
    while not image_processes(pod) - before:
        assert time.monotonic() < until_s
        time.sleep(0.05)
