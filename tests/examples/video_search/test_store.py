"""An index holds each scene once, with vectors of one model, and finds what is nearest."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from clip_embedding_client import Embedding

from examples.video_search.scenes import Scene
from examples.video_search.store import MixedModels, Store, Video, video_id
from tests.examples.video_search.site import NOWHERE, settings

ONE, OTHER = "2-1111111111111111", "2-2222222222222222"
SCENES = (Scene(0, 0.0, 2.0), Scene(1, 2.0, 5.5), Scene(2, 5.5, 6.0))


def embedding(*values: float, fingerprint: str = ONE) -> Embedding:
    vector = np.asarray(values, np.float32)
    return Embedding(
        vector=vector / np.linalg.norm(vector),
        request_id="",
        fingerprint=fingerprint,
        normalized=True,
        timings={},
        truncated=False,
        cached=False,
        backend="runpod_pod",
    )


@pytest.fixture
def video(tmp_path: Path) -> Video:
    return Video("a" * 64, tmp_path / "holiday.mp4", SCENES)


@pytest.fixture
def store(tmp_path: Path, video: Video) -> Store:
    """An index that knows a video, and no vector of it."""
    store = Store(tmp_path / "index")
    store.put_video(video)
    return store


def found(store: Store, query: Embedding) -> Sequence[tuple[int, float, int]]:
    return [(one.scene.number, round(one.score, 3), one.thumbnails) for one in store.search(query, 10)]


def test_new_index_is_empty(tmp_path: Path) -> None:
    """It can be searched, and takes any model."""
    store = Store(tmp_path / "index")

    assert (None, 0, [], {}) == (store.fingerprint(), store.count(), found(store, embedding(1, 0)), store.videos())
    assert store.accepting(settings(NOWHERE)).clip_expected_fingerprint is None


def test_nearest_comes_first_with_its_cosine(store: Store, video: Video) -> None:
    """Whatever the order in which they were written."""
    store.put_scenes(video, [(SCENES[2], [embedding(0, 1)]), (SCENES[0], [embedding(3, 4)])])
    store.put_scenes(video, [(SCENES[1], [embedding(1, 0)])])

    assert [(1, 1.0, 1), (0, 0.6, 1), (2, 0.0, 1)] == found(store, embedding(1, 0))


def test_vector_of_several_thumbnails_is_their_average(store: Store, video: Video) -> None:
    """Of length 1 again, and it says of how many."""
    store.put_scenes(video, [(SCENES[0], [embedding(1, 0), embedding(0, 1)])])

    assert [(0, 1.0, 2)] == found(store, embedding(1, 1))


def test_scene_is_kept_once(store: Store, video: Video) -> None:
    """Two workers on one video, or one that was killed while it wrote, leave no scene twice."""
    for _ in range(2):
        store.put_scenes(video, [(SCENES[0], [embedding(1, 0)]), (SCENES[1], [embedding(0, 1)])])

    assert (2, {0, 1}) == (store.count(), store.numbers(video))


def test_vectors_of_another_model_are_refused(store: Store, video: Video, tmp_path: Path) -> None:
    """Neither kept nor searched with, and the message says which they are and what to do."""
    store.put_scenes(video, [(SCENES[0], [embedding(1, 0)])])

    with pytest.raises(MixedModels, match=f"index has .* {ONE}, .* {OTHER} now: .* another folder"):
        store.put_scenes(video, [(SCENES[1], [embedding(1, 0, fingerprint=OTHER)])])
    with pytest.raises(MixedModels):
        store.search(embedding(1, 0, 0, fingerprint=OTHER), 1)
    assert {0} == store.numbers(video)


@pytest.mark.parametrize("together", [True, False], ids=["in one scene", "in one write"])
def test_first_write_is_of_one_model_too(store: Store, video: Video, together: bool) -> None:
    """A service that is rolled out in the middle leaves no mixture, not even in an empty index."""
    one, other = embedding(1, 0), embedding(0, 1, fingerprint=OTHER)
    mixed = [(SCENES[0], [one, other])] if together else [(SCENES[0], [one]), (SCENES[1], [other])]

    with pytest.raises(MixedModels):
        store.put_scenes(video, mixed)
    assert 0 == store.count()


def test_client_accepts_the_indexs_model_only(store: Store, video: Video) -> None:
    """So that the fallback can be compared before the first backend was ever seen."""
    store.put_scenes(video, [(SCENES[0], [embedding(1, 0)])])

    assert ONE == store.accepting(settings(NOWHERE)).clip_expected_fingerprint


def test_others_see_what_is_written(store: Store, video: Video, tmp_path: Path) -> None:
    """A page that was opened before searches what a worker has written since, also after it has tidied."""
    page = Store(tmp_path / "index")
    other = Video("b" * 64, tmp_path / "other.mp4", SCENES)
    store.put_video(other)
    store.put_scenes(video, [(SCENES[0], [embedding(1, 0)])])
    store.put_scenes(video, [(SCENES[1], [embedding(0, 1)])])
    store.tidy()

    assert {video.id: video, other.id: other} == page.videos()
    assert [(0, 1.0, 1), (1, 0.0, 1)] == found(page, embedding(1, 0))


def test_two_workers_may_tidy_at_once(video: Video, tmp_path: Path) -> None:
    """Who comes second has nothing to do: what it wanted is done."""
    stores = [Store(tmp_path / "index") for _ in range(4)]
    for number in range(8):
        scenes = tuple(Scene(scene, scene, scene + 1.0) for scene in range(4))
        for scene in scenes:
            stores[0].put_scenes(replace(video, id=str(number)), [(scene, [embedding(1, scene.number)])])
    together = Barrier(len(stores))

    def tidy(store: Store) -> None:
        together.wait()
        store.tidy()

    with ThreadPoolExecutor(len(stores)) as threads:
        list(threads.map(tidy, stores))

    assert 32 == stores[0].count()


def test_video_is_known_by_its_content(store: Store, video: Video, tmp_path: Path) -> None:
    """Under its new name it is the same video, and the page plays it from there."""
    (tmp_path / "a.mp4").write_bytes(b"same")
    (tmp_path / "b.mp4").write_bytes(b"same")
    moved = Video(video.id, tmp_path / "moved.mp4", SCENES)
    store.put_video(moved)

    assert video_id(tmp_path / "a.mp4") == video_id(tmp_path / "b.mp4")
    assert {video.id: moved} == store.videos()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param(b"caf\xc3\xa9.mp4", "caf\u00e9.mp4", id="text"),
        pytest.param(b"caf\xe9.mp4", "caf\\xe9.mp4", id="bytes that are no text"),
        pytest.param(b"' OR 1=1; --.mp4", "' OR 1=1; --.mp4", id="a query"),
        pytest.param(b"two\nlines.mp4", "two\nlines.mp4", id="two lines"),
    ],
)
def test_any_name_of_a_file_is_kept(store: Store, tmp_path: Path, name: bytes, shown: str) -> None:
    """As it is for the disk, and written out for people."""
    path = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
    store.put_video(Video("b" * 64, path, SCENES))
    kept = store.videos()["b" * 64]

    assert (path, shown, 6.0) == (kept.path, kept.name, kept.duration_s)
