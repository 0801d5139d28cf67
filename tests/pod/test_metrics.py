"""`/metrics`: valid in Prometheus' text format, true after work was done, and one for all processes of a pod."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from core.metrics import DEVICE_MEMORY, GONE, METRICS, Kind
from pod.metrics import make_folder
from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.testbed import exposition
from tools.testbed.image_server import ImageServer
from tools.testbed.process import LEAVING, LEAVING_SECRET, ROOT, TINY_MODEL, PodProcess, pod_process
from tools.testbed.raw_http import connected, head
from tools.testbed.target import signed_image, signed_text

SOON_S = 30.0
RED_CIRCLE = (TINY_MODEL / "examples" / "red-circle.png").read_bytes()

Samples = dict[tuple[str, ...], float]


def page(pod: PodProcess) -> str:
    answer = requests.get(pod.base_url + "/metrics", timeout=SOON_S)
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status_code, answer.headers["Content-Type"])
    return answer.text


def samples(pod: PodProcess) -> Samples:
    """By name and the values of the labels, which are in the order of their names."""
    every = exposition.samples(pod.base_url)
    return {(one.name, *(value for _, value in sorted(one.labels.items()))): one.value for one in every}


def grown(before: Samples, after: Samples) -> Samples:
    """What has changed by how much."""
    return {key: value - before.get(key, 0.0) for key, value in after.items() if value != before.get(key, 0.0)}


def test_work_is_counted_by_modality(pod: PodProcess, images: ImageServer) -> None:
    """One image and two texts more, in passes that took time, and each of them again, which is none; a refused request
    counts nothing.
    """
    before = samples(pod)
    texts = [f"{text} that is counted" for text in ("a red circle", "a blue square")]
    for text in 2 * texts:
        requests.post(pod.base_url + EMBED_TEXT, json=signed_text(text), timeout=SOON_S).raise_for_status()
    # A file that no other test has sent.
    url = images.add("/counted.png", RED_CIRCLE + b"counted")
    for _ in range(2):
        requests.post(pod.base_url + EMBED_IMAGE, json=signed_image(url), timeout=SOON_S).raise_for_status()
    requests.post(pod.base_url + EMBED_TEXT, json={"text": "unsigned"}, timeout=SOON_S)
    after = samples(pod)
    more = grown(before, after)

    for name in ("embedded_items", "forward_passes", "cache_hits", "cache_misses"):
        assert (2.0, 1.0) == (more[f"clip_{name}_total", "text"], more[f"clip_{name}_total", "image"])
    assert (2.0, 1.0) == (more["clip_batch_size_items_sum", "text"], more["clip_batch_size_items_sum", "image"])
    assert more["clip_forward_seconds_total", "image"] > 0
    assert after["clip_queue_seconds_total", "image"] >= before["clip_queue_seconds_total", "image"]
    assert more["clip_tokens_total", "text"] > 2
    assert 0.0 == after["clip_queued_items",]


def test_requests_and_items_are_counted_by_what_came_of_them(pod: PodProcess, images: ImageServer) -> None:
    """An image that is there, one that is not, and a request that nobody has signed, which is nobody's."""
    before = samples(pod)
    urls = [images.add("/told-apart.png", RED_CIRCLE + b"told apart"), images.base_url + "/is-not-there"]
    for url in urls:
        requests.post(pod.base_url + EMBED_IMAGE, json=signed_image(url), timeout=SOON_S)
    requests.post(pod.base_url + EMBED_TEXT, json={"text": "unsigned"}, timeout=SOON_S)
    requests.get(pod.base_url + EMBED_TEXT, timeout=SOON_S)
    requests.post(pod.base_url + "/v1/nothing", json={}, timeout=SOON_S)
    more = grown(before, samples(pod))

    # Labels: client, code, operation or modality.
    assert {
        ("clip_requests_total", "default", "OK", "image"): 1.0,
        ("clip_requests_total", "default", "DOWNLOAD_ERROR", "image"): 1.0,
        ("clip_requests_total", "", "AUTH_FAILED", "text"): 1.0,
    } == {key: value for key, value in more.items() if key[0] == "clip_requests_total"}
    assert {
        ("clip_items_total", "default", "OK", "image"): 1.0,
        ("clip_items_total", "default", "DOWNLOAD_ERROR", "image"): 1.0,
    } == {key: value for key, value in more.items() if key[0] == "clip_items_total"}
    assert (2.0, 1.0) == tuple(more["clip_request_duration_seconds_count", name] for name in ("image", "text"))
    for stage in ("download", "decode", "queue", "forward"):
        assert 1.0 == more["clip_stage_duration_seconds_count", "image", stage]


def test_client_that_has_gone_is_no_fault_of_the_service(pod: PodProcess, images: ImageServer) -> None:
    """It has had no answer, and what it asked for was given up: neither is a deadline that the service has missed."""
    # What others have given up may be counted only now.
    of_its_own = [("clip_requests_total", LEAVING), ("clip_items_total", LEAVING)]
    before = samples(pod)
    url, gate = images.add_gated("/nobody-waits.png", RED_CIRCLE)
    body = json.dumps(signed_image(url, secret=LEAVING_SECRET)).encode()
    with connected(pod.base_url) as client:
        client.sendall(head(EMBED_IMAGE, f"Content-Length: {len(body)}") + body)
        gate.wait_for_request()
    counted = Samples()
    until_s = time.monotonic() + SOON_S
    while len(counted) < 2 and time.monotonic() < until_s:
        time.sleep(0.05)
        more = grown(before, samples(pod))
        counted = {key: more[key] for key in more if key[:2] in of_its_own}
    gate.open()

    assert {
        ("clip_requests_total", LEAVING, GONE, "image"): 1.0,
        ("clip_items_total", LEAVING, GONE, "image"): 1.0,
    } == counted


def test_live_page_has_what_is_defined_and_nothing_else(pod: PodProcess) -> None:
    """Names, types, meanings and labels; a device's memory where there is CUDA."""
    requests.post(pod.base_url + EMBED_TEXT, json=signed_text("a text"), timeout=SOON_S).raise_for_status()
    families = {family.name: family for family in text_string_to_metric_families(page(pod))}
    labels = {
        name: {label for one in family.samples for label in one.labels if label != "le"}
        for name, family in families.items()
    }
    defined = {metric.name.removesuffix("_total"): metric for metric in METRICS if metric is not DEVICE_MEMORY}

    assert defined.keys() == families.keys()
    assert {name: set(metric.labels) for name, metric in defined.items()} == labels
    assert {name: (metric.kind.value, metric.meaning) for name, metric in defined.items()} == {
        name: (family.type, family.documentation) for name, family in families.items()
    }
    assert {Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM} == {metric.kind for metric in defined.values()}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool: make prometheus")
def test_promtool_finds_nothing_to_say(pod: PodProcess) -> None:
    """Its linter knows the conventions."""
    requests.post(pod.base_url + EMBED_TEXT, json=signed_text("a text"), timeout=SOON_S).raise_for_status()
    checked = subprocess.run(
        ["promtool", "check", "metrics"],  # noqa: S607 - wherever Debian puts it
        input=page(pod),
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )

    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)


ASKED, READY = ("clip_requests_total", "default", "OK", "text"), ("clip_ready",)


def test_page_is_of_all_processes_and_outlives_each() -> None:
    """Whichever answers has what both have done; of one that is killed its counts stay, and it is no longer there."""
    with pod_process({"WORKERS": "2"}) as pod:
        _wait_until(lambda: samples(pod)[READY] == 2.0)
        for number in range(8):
            asked = signed_text(f"text {number}")
            requests.post(pod.base_url + EMBED_TEXT, json=asked, timeout=SOON_S).raise_for_status()
        _wait_until(lambda: {8.0} == {samples(pod).get(ASKED) for _ in range(8)})
        master = psutil.Process(pod.process.pid)
        [killed, other] = master.children()
        killed.kill()
        _wait_until(lambda: any(has_handed_over(worker) for worker in set(master.children()) - {killed, other}))
        _wait_until(lambda: samples(pod)["clip_processes",] == 2.0)
        seen = [samples(pod) for _ in range(4)]

        assert {8.0} == {one[ASKED] for one in seen}
        assert {2.0} == {one["clip_processes",] for one in seen}
        _wait_until(lambda: samples(pod)[READY] == 2.0)


def has_handed_over(worker: psutil.Process) -> bool:
    """Whether what is so of it at present is in the page."""
    return any(Path(file.path).name == f"gauge_livesum_{worker.pid}.db" for file in worker.open_files())


def test_file_of_a_worker_that_has_not_begun_it_is_nobodys_fault() -> None:
    """For a moment each of its files is empty; one that is killed in that moment leaves it so for good."""
    with pod_process() as pod:
        [worker] = psutil.Process(pod.process.pid).children()
        [folder] = {Path(file.path).parent for file in worker.open_files() if file.path.endswith(".db")}
        (folder / "counter_999999999.db").touch()

        assert 1.0 == samples(pod)[READY]


def test_figures_leave_nothing_behind() -> None:
    """They are in a folder that nobody else may read, which goes with the pod."""
    with pod_process() as pod:
        [worker] = psutil.Process(pod.process.pid).children()
        folders = {Path(file.path).parent for file in worker.open_files() if file.path.endswith(".db")}
        [folder] = folders
        mode = folder.stat().st_mode & 0o777
        pod.terminate()

        assert 0o700 == mode
        assert not folder.exists()


def _wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 2 * SOON_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.1)


def test_folder_of_a_killed_pod_goes_with_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that of one that lives stays, as does what is none of ours."""
    make = f"from pod.metrics import make_folder; make_folder(memory={str(tmp_path)!r}); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", make], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as living:
        assert living.stdout is not None
        living.stdout.readline()
        [kept] = tmp_path.iterdir()
        with subprocess.Popen(
            [sys.executable, "-c", make], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        ) as killed:
            assert killed.stdout is not None
            killed.stdout.readline()
            left = set(tmp_path.iterdir()) - {kept}
            killed.kill()
        others = tmp_path / "clip-metrics-others"
        others.mkdir()
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
        make_folder(memory=str(tmp_path))
        now = set(tmp_path.iterdir())
        living.kill()

    assert 1 == len(left)
    assert not left & now
    assert {kept, others} < now
