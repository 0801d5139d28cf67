"""The worker over a real pod, a real handler and a real video: what is indexed, once, whatever ends or fails."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from clip_embedding_client import ClipClient, FingerprintMismatch

from examples.video_search import worker
from examples.video_search.store import MixedModels, Store
from examples.video_search.worker import SCENES_PER_WRITE, Worker
from models.shapes_video import STORY, make_video
from tests.examples.video_search.site import NOWHERE, client_environ, index, local_handler, settings, with_fallback
from tools.testbed.loopback import QuietHandler, base_url, serving
from tools.testbed.process import ROOT, PodProcess, environment, pod_process

FEW_AT_ONCE = {"CLIP_BATCH_SIZE": "4"}
# The first write is of scenes before these, and no thumbnail of those is in a batch with one of these.
HELD_FROM = SCENES_PER_WRITE + 4


# Of the long video.
SCENES = 2 * len(STORY)


@dataclass(slots=True)
class Thumbnails:
    """Serves an index's thumbnails, as object storage would. What `held` names waits for `released`."""

    base_url: str
    folder: Path
    held: Callable[[int], bool] = lambda _number: False
    refused: set[int] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    asked: list[int] = field(default_factory=list)


class _Handler(QuietHandler):
    def do_GET(self) -> None:
        served: Thumbnails = self.server.thumbnails  # type: ignore[attr-defined]
        number = int(self.path.rpartition("/")[2].partition("-")[0])
        served.asked.append(number)
        if served.held(number):
            served.released.wait(60)
        content = b"" if number in served.refused else (served.folder / self.path[1:]).read_bytes()
        # Who has asked may be dead by now.
        with suppress(ConnectionError):
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


@contextmanager
def thumbnails_of(store: Store) -> Iterator[Thumbnails]:
    with serving(_Handler) as httpd:
        served = httpd.thumbnails = Thumbnails(base_url(httpd), store.thumbnails)  # type: ignore[attr-defined]
        try:
            yield served
        finally:
            served.released.set()


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story twice, two writes' worth."""
    path = tmp_path_factory.mktemp("long") / "long.webm"
    make_video(path, [*STORY, *STORY])
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "index")


def scene_numbers(store: Store) -> set[int]:
    [video] = store.videos().values()
    return store.numbers(video)


def wait_for_count(store: Store, count: int) -> None:
    until_s = time.monotonic() + 60
    while store.count() < count:
        assert time.monotonic() < until_s, f"{store.count()} scenes"
        time.sleep(0.02)


SEARCHES = [(words, number) for number, shot in enumerate(STORY) for words in shot.found_by]


def test_searches_find_the_right_scene_first(indexed: Store, pod: PodProcess) -> None:
    """Of twenty and more searches in words, all but one at most; among the scenes are those with motion and change."""
    with ClipClient(settings(pod.base_url)) as client:
        first = [indexed.search(client.embed_text(words), 1)[0].scene.number for words, _ in SEARCHES]
    missed = [words for (words, number), found in zip(SEARCHES, first, strict=True) if found != number]

    assert len(SEARCHES) >= 20
    assert len(missed) <= 1, missed


def test_scene_that_changes_is_an_average(indexed: Store, pod: PodProcess) -> None:
    """It is long, has several thumbnails, and is found by what it is at first and at last."""
    with ClipClient(settings(pod.base_url)) as client:
        best = [indexed.search(client.embed_text(words), 1)[0] for words in ("a green square", "a yellow square")]

    assert [3, 3] == [one.thumbnails for one in best]
    assert best[0].scene == best[1].scene


def test_urls_give_the_vectors_of_bytes(drawn: Path, indexed: Store, pod: PodProcess, store: Store) -> None:
    """Who keeps thumbnails where the service can download them sends no bytes."""
    with thumbnails_of(store) as served, ClipClient(settings(pod.base_url)) as client:
        missing = Worker(store, client, served.base_url + "/").index(drawn)
        query = client.embed_text("a red circle")
        by_url, by_bytes = ([(one.scene, one.score) for one in each.search(query, 5)] for each in (store, indexed))

    assert [] == missing
    assert len(STORY) <= len(served.asked)
    assert [scene for scene, _ in by_bytes] == [scene for scene, _ in by_url]
    assert [score for _, score in by_bytes] == pytest.approx([score for _, score in by_url], abs=1e-3)


def test_second_run_asks_for_nothing(drawn: Path, indexed: Store, pod: PodProcess) -> None:
    """Not even for the scenes: the video is known."""
    with thumbnails_of(indexed) as served, ClipClient(settings(pod.base_url)) as client:
        assert [] == Worker(indexed, client, served.base_url).index(drawn)

    assert [] == served.asked


def test_scene_that_fails_is_reported_and_retried_and_the_others_are_kept(
    drawn: Path, pod: PodProcess, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the run, behind the others; and by the next run, alone."""
    with thumbnails_of(store) as served, ClipClient(settings(pod.base_url)) as client:
        indexing = Worker(store, client, served.base_url)
        served.refused = {3}
        missing = [scene.number for scene in indexing.index(drawn)]
        kept, reported = scene_numbers(store), capsys.readouterr().err
        asked_for_it = Counter(served.asked)[3]

        served.refused = set()
        served.asked.clear()
        missing_then = indexing.index(drawn)

    assert ([3], set(range(len(STORY))) - {3}) == (missing, kept)
    assert 2 == reported.count("scene 3, at 6.0 s: DOWNLOAD_ERROR")
    assert 2 == asked_for_it
    assert ([], [3]) == (missing_then, served.asked)
    assert set(range(len(STORY))) == scene_numbers(store)


def test_killed_worker_goes_on_where_it_was(long_video: Path, pod: PodProcess, tmp_path: Path, store: Store) -> None:
    """What has a vector is not asked for again, and each scene is there once in the end."""
    with thumbnails_of(store) as served:
        served.held = lambda number: number >= HELD_FROM
        command = [sys.executable, "-m", "examples.video_search.worker", str(long_video)]
        command += ["--index", str(tmp_path / "index"), "--thumbnail-url", served.base_url]
        given = environment(**client_environ(pod.base_url, **FEW_AT_ONCE), PYTHONPATH="client/src")
        first = subprocess.Popen(command, cwd=ROOT, env=given, stderr=subprocess.DEVNULL)
        try:
            wait_for_count(store, SCENES_PER_WRITE)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        kept = scene_numbers(store)
        served.released.set()
        served.asked.clear()
        second = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)

    assert set(range(SCENES_PER_WRITE)) == kept
    assert 0 == second.returncode, second.stderr
    assert kept.isdisjoint(served.asked)
    assert (SCENES, set(range(SCENES))) == (store.count(), scene_numbers(store))


def test_pod_that_is_killed_in_the_middle_costs_no_scene(long_video: Path, store: Store) -> None:
    """The handler answers the rest, with the same model; each scene is there once."""
    with (
        local_handler() as handler_url,
        pod_process() as pod,
        thumbnails_of(store) as served,
        ClipClient(settings(pod.base_url, **with_fallback(handler_url), **FEW_AT_ONCE)) as client,
    ):
        served.held = lambda number: number >= HELD_FROM
        missing: list[object] = []
        indexing = threading.Thread(
            target=lambda: missing.append(Worker(store, client, served.base_url).index(long_video))
        )
        indexing.start()
        wait_for_count(store, SCENES_PER_WRITE)
        pod.kill()
        served.released.set()
        indexing.join()
        query = client.embed_text("a red circle")
        [best] = store.search(query, 1)

    assert [[]] == missing
    assert (SCENES, set(range(SCENES))) == (store.count(), scene_numbers(store))
    assert ("runpod_serverless", 0) == (query.backend, best.scene.number % len(STORY))


def test_other_model_is_refused_before_anything_is_done(
    drawn: Path, pod: PodProcess, other_pod: PodProcess, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that was rolled out with another model does not get to add to what the first one has made."""
    index(drawn, store, settings(pod.base_url))
    capsys.readouterr()
    with ClipClient(store.accepting(settings(other_pod.base_url))) as client:
        with pytest.raises(MixedModels, match="they cannot be compared"):
            Worker(store, client).index(drawn.parent / "another.webm")
        with pytest.raises(FingerprintMismatch):
            client.embed_text("a red circle")

    assert ("", len(STORY)) == (capsys.readouterr().err, store.count())


def test_video_that_cannot_be_read_costs_itself_only(
    drawn: Path, pod: PodProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The videos behind it are indexed; it is named, and the status says that something is missing."""
    (tmp_path / "notes.mp4").write_text("no video")
    for name, value in client_environ(pod.base_url).items():
        monkeypatch.setenv(name, value)
    videos = [str(tmp_path / "notes.mp4"), str(tmp_path / "gone.mp4"), str(drawn)]

    assert 1 == worker.main(["--index", str(tmp_path / "index"), *videos])
    said = capsys.readouterr().err
    assert "notes.mp4: " in said
    assert "gone.mp4" in said
    assert len(STORY) == Store(tmp_path / "index").count()


def test_missing_file_and_missing_settings_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command names what is wrong, and ends with a status."""
    given = ["--index", str(tmp_path / "index"), str(tmp_path / "holiday.mp4")]
    for name in ("CLIP_INFERENCE_BACKEND", "CLIP_POD_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    assert 1 == worker.main(given)
    assert "CLIP_INFERENCE_BACKEND is not set" in capsys.readouterr().err
    for name, value in client_environ(NOWHERE, CLIP_RETRY_ATTEMPTS="1").items():
        monkeypatch.setenv(name, value)
    assert 1 == worker.main(given)
    assert "holiday.mp4" in capsys.readouterr().err
