"""The index: a folder with a LanceDB of videos and scenes, and their thumbnails. An index has vectors of one model.

Safe for threads and for several processes: a page searches while a worker writes.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from clip_embedding_client import ClientSettings, Embedding
from lancedb.expr import col, lit

from examples.video_search.scenes import Scene

# Names of files are bytes, and not always text.
_VIDEOS = {"id": pa.string(), "path": pa.binary(), "starts_s": pa.list_(pa.float64()), "ends_s": pa.list_(pa.float64())}
# And a vector, whose length the model decides.
_SCENES = {
    "video": pa.string(),
    "number": pa.int32(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "thumbnails": pa.int32(),
    "fingerprint": pa.string(),
}


class MixedModels(Exception):
    """Vectors of two models in one index: no search could compare them."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video that was cut. Its id is the SHA-256 of the file: under another name it is the same."""

    id: str
    path: Path
    scenes: tuple[Scene, ...]

    @property
    def name(self) -> str:
        """For people: what is no text in it is written out."""
        return os.fsencode(self.path.name).decode("utf-8", "backslashreplace")

    @property
    def duration_s(self) -> float:
        return self.scenes[-1].end_s

    def thumbnail_name(self, scene: Scene, position: int) -> str:
        """Where a thumbnail lies, under the folder or the URL of all."""
        return f"{self.id}/{scene.number}-{position}.jpg"


@dataclass(frozen=True, slots=True)
class Found:
    """A scene, the cosine of its vector with the search, and of how many thumbnails that vector is the average."""

    video: Video
    scene: Scene
    score: float
    thumbnails: int


class Store:
    """An index in a folder, which is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.thumbnails = folder.resolve() / "thumbnails"
        # Every look sees what others have written until then.
        self._db = lancedb.connect(folder / "lance", read_consistency_interval=timedelta(0))
        self._videos = self._db.create_table("videos", schema=pa.schema(_VIDEOS), exist_ok=True)

    def fingerprint(self) -> str | None:
        """Of the model whose vectors are here; None while there are none."""
        table = self._scenes()
        rows = [] if table is None else table.search().select(["fingerprint"]).limit(1).to_list()
        return str(rows[0]["fingerprint"]) if rows else None

    def check(self, fingerprints: Iterable[str]) -> None:
        """Raise `MixedModels` unless vectors of all of them can be compared, with each other and with what is here."""
        ours = self.fingerprint()
        for fingerprint in fingerprints:
            ours = ours or fingerprint
            if fingerprint != ours:
                raise MixedModels(
                    f"{self._folder} has vectors of the model with fingerprint {ours}, and the service has"
                    f" {fingerprint} now: they cannot be compared. Serve the first model again, or take another folder"
                    " for the index."
                )

    def accepting(self, settings: ClientSettings) -> ClientSettings:
        """Return settings that take vectors of this index's model only, whichever backend they come from.

        With them the fallback may answer even if the first backend has never been seen.
        """
        expected = self.fingerprint() or settings.clip_expected_fingerprint
        return replace(settings, clip_expected_fingerprint=expected)

    def videos(self) -> dict[str, Video]:
        """All that were cut, by their id."""
        return {row["id"]: _video(row) for row in self._videos.search().to_list()}

    def put_video(self, video: Video) -> None:
        """Keep it, in place of what was known of the same file."""
        starts_s, ends_s = [scene.start_s for scene in video.scenes], [scene.end_s for scene in video.scenes]
        row = {"id": video.id, "path": os.fsencode(video.path), "starts_s": starts_s, "ends_s": ends_s}
        self._videos.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute([row])

    def put_scenes(self, video: Video, embedded: Sequence[tuple[Scene, Sequence[Embedding]]]) -> None:
        """Keep the average of each scene's vectors; a scene that is here stays as it is. Raises `MixedModels`."""
        if not embedded:
            return
        self.check(embedding.fingerprint for _, embeddings in embedded for embedding in embeddings)
        rows = [_row(video, scene, embeddings) for scene, embeddings in embedded]
        schema = pa.schema(_SCENES | {"vector": pa.list_(pa.float32(), len(rows[0]["vector"]))})
        table = self._db.create_table("scenes", schema=schema, exist_ok=True)
        table.merge_insert(["video", "number"]).when_not_matched_insert_all().execute(rows)

    def numbers(self, video: Video) -> set[int]:
        """Of its scenes that have a vector."""
        table = self._scenes()
        if table is None:
            return set()
        query = table.search().where(col("video") == lit(video.id)).select(["number"])
        return {row["number"] for row in query.to_list()}

    def count(self) -> int:
        """How many scenes can be searched."""
        table = self._scenes()
        return 0 if table is None else table.count_rows()

    def search(self, query: Embedding, most: int) -> list[Found]:
        """Return the scenes nearest to it, best first. Raises `MixedModels`."""
        self.check([query.fingerprint])
        table = self._scenes()
        if table is None:
            return []
        nearest = table.search(query.vector).limit(most)
        videos = self.videos()
        return [_found(videos[row["video"]], row) for row in nearest.to_list()]

    def tidy(self) -> None:
        """Join what many writes have left in many small files, which would slow down each search."""
        table = self._scenes()
        if table is not None:
            try:
                table.optimize()
            except RuntimeError as error:
                # Another worker does it at this moment.
                if "commit conflict" not in str(error):
                    raise

    def _scenes(self) -> lancedb.table.Table | None:
        return self._db.open_table("scenes") if "scenes" in self._db.list_tables().tables else None


def video_id(path: Path) -> str:
    """Read the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row(video: Video, scene: Scene, embeddings: Sequence[Embedding]) -> dict[str, Any]:
    mean = np.mean([embedding.vector for embedding in embeddings], axis=0)
    return {
        "video": video.id,
        "number": scene.number,
        "start_s": scene.start_s,
        "end_s": scene.end_s,
        "thumbnails": len(embeddings),
        "fingerprint": embeddings[0].fingerprint,
        "vector": mean / np.linalg.norm(mean),
    }


def _video(row: dict[str, Any]) -> Video:
    times_s = enumerate(zip(row["starts_s"], row["ends_s"], strict=True))
    scenes = tuple(Scene(number, start_s, end_s) for number, (start_s, end_s) in times_s)
    return Video(row["id"], Path(os.fsdecode(row["path"])), scenes)


def _found(video: Video, row: dict[str, Any]) -> Found:
    # LanceDB's distance is squared, and between vectors of length 1 that is 2 - 2 cos.
    return Found(video, video.scenes[row["number"]], 1 - row["_distance"] / 2, row["thumbnails"])
