"""The drawn video, and its index as the pod's model makes it; made once for all tests of a process."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.video_search.store import Store
from models.shapes_video import make_video
from tests.examples.video_search.site import Site, index, settings, site
from tools.testbed.process import TINY_MODEL, PodProcess, pod_process


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video of `make demo`."""
    path = tmp_path_factory.mktemp("video") / "drawn.webm"
    make_video(path)
    return path


@pytest.fixture(scope="session")
def indexed(drawn: Path, pod: PodProcess, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Its index, for tests that only search."""
    store = Store(tmp_path_factory.mktemp("indexed") / "index")
    index(drawn, store, settings(pod.base_url))
    return store


@pytest.fixture(scope="session")
def served(indexed: Store, pod: PodProcess) -> Iterator[Site]:
    """The page over that index."""
    with site(indexed, settings(pod.base_url)) as running:
        yield running


@pytest.fixture(scope="session")
def other_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodProcess]:
    """A pod whose model gives vectors that cannot be compared: it takes another mean from the pixels."""
    model = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(TINY_MODEL, model)
    preprocessor = model / "preprocessor_config.json"
    preprocessor.write_text(json.dumps(json.loads(preprocessor.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    with pod_process({"CLIP_MODEL": str(model)}) as process:
        yield process
