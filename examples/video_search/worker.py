"""The worker: cuts videos, has their thumbnails embedded, and keeps the vectors. What has a vector is not done again.

Which backend answers, what is sent again and what goes to the fallback is the client's to decide.
"""

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from clip_embedding_client import ClientSettings, ClipClient, ClipClientError, Embedding, UnavailableError
from tqdm import tqdm

from examples.video_search.scenes import FrameUnreadable, Scene, VideoUnreadable, find_scenes, thumbnails
from examples.video_search.store import MixedModels, Store, Video, video_id

# The client has sent each thumbnail several times by then: a scene that still fails is tried again behind the others.
PASSES = 2
# A kill costs at most so many scenes; writing each by itself costs more and more as the index grows.
SCENES_PER_WRITE = 16

Result = Embedding | ClipClientError | FrameUnreadable


@dataclass(frozen=True, slots=True)
class Worker:
    """Thumbnails are sent as bytes; with `thumbnail_url`, where the index's thumbnails are served, as URLs."""

    store: Store
    client: ClipClient
    thumbnail_url: str | None = None

    def index(self, path: Path) -> list[Scene]:
        """Index what is missing of a video; return the scenes that still are, whose reasons are reported.

        Raises `VideoUnreadable`, `MixedModels`, `OSError`, and the `ClipClientError` that says no scene can do better.
        """
        # A pod that is down is no reason to stop: the fallback's vectors are compared with the index's, each by itself.
        with suppress(UnavailableError):
            fingerprint = self.client.health().fingerprint
            if fingerprint is not None:
                self.store.check([fingerprint])
        video = self._cut(path.resolve())
        for _ in range(PASSES):
            self._pass(video)
            missing = self._missing(video)
            if not missing:
                break
        self.store.tidy()
        return missing

    def _cut(self, path: Path) -> Video:
        """The video's scenes, found once: that takes far longer than their vectors."""
        identity = video_id(path)
        known = self.store.videos().get(identity)
        scenes = known.scenes if known else tuple(find_scenes(path, show_progress=True))
        video = Video(identity, path, scenes)
        self.store.put_video(video)
        return video

    def _missing(self, video: Video) -> list[Scene]:
        numbers = self.store.numbers(video)
        return [scene for scene in video.scenes if scene.number not in numbers]

    def _pass(self, video: Video) -> None:
        missing = self._missing(video)
        embedded: list[tuple[Scene, list[Embedding]]] = []
        with tqdm(total=len(video.scenes), initial=len(video.scenes) - len(missing), unit="scene") as bar:
            try:
                for scene, results in self._results(video, missing):
                    embeddings = [result for result in results if isinstance(result, Embedding)]
                    if len(embeddings) < len(results):
                        reason = next(result for result in results if not isinstance(result, Embedding))
                        bar.write(f"scene {scene.number}, at {scene.start_s:.1f} s: {reason}", file=sys.stderr)
                        continue
                    embedded.append((scene, embeddings))
                    bar.update()
                    if len(embedded) == SCENES_PER_WRITE:
                        self.store.put_scenes(video, embedded)
                        embedded.clear()
            finally:
                self.store.put_scenes(video, embedded)

    def _results(self, video: Video, scenes: list[Scene]) -> Iterator[tuple[Scene, list[Result]]]:
        """Yield each scene with one result per thumbnail, while the video is read and batches are on their way."""
        sent: deque[tuple[Scene, int]] = deque()
        unreadable: list[tuple[Scene, list[Result]]] = []

        def images() -> Iterator[bytes | str]:
            for scene, pictures in thumbnails(video.path, scenes):
                if isinstance(pictures, FrameUnreadable):
                    unreadable.append((scene, [pictures]))
                    continue
                sent.append((scene, len(pictures)))
                for position, picture in enumerate(pictures):
                    yield self._kept(video.thumbnail_name(scene, position), picture)

        # The n-th result is of the n-th thumbnail.
        results = self.client.iter_images(images())
        for result in results:
            scene, count = sent.popleft()
            yield scene, [result, *islice(results, count - 1)]
        yield from unreadable

    def _kept(self, name: str, picture: bytes) -> bytes | str:
        """Keep a thumbnail for the page, and return what is sent."""
        path = self.store.thumbnails / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        return picture if self.thumbnail_url is None else f"{self.thumbnail_url.rstrip('/')}/{name}"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 if something is missing, which the next run tries again."""
    parser = argparse.ArgumentParser(prog="python -m examples.video_search.worker", description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path, help="video files")
    parser.add_argument("--index", type=Path, required=True, help="the folder of the index")
    parser.add_argument(
        "--thumbnail-url", help="send URLs of thumbnails: where the index's folder `thumbnails` is served"
    )
    options = parser.parse_args(arguments)
    store = Store(options.index)
    try:
        settings = store.accepting(ClientSettings.from_environ())
        with ClipClient(settings, on_event=lambda event: tqdm.write(str(event), file=sys.stderr)) as client:
            worker = Worker(store, client, options.thumbnail_url)
            missing, unreadable = 0, 0
            for path in options.videos:
                try:
                    missing += len(worker.index(path))
                except (VideoUnreadable, OSError) as error:
                    # The videos behind it are none the worse for it.
                    print(error, file=sys.stderr)
                    unreadable += 1
    except (MixedModels, ClipClientError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{store.count()} scenes can be searched, {missing} are missing", file=sys.stderr)
    return 1 if missing or unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
