"""Cuts a video into scenes and takes their thumbnails. Knows neither vectors nor the service."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image
from scenedetect import AdaptiveDetector, SceneManager, VideoOpenFailure
from scenedetect.backends import VideoStreamAv

# One frame stands for so much of a scene; a longer one gets several, evenly spread.
SECONDS_PER_THUMBNAIL = 5.0
MOST_THUMBNAILS = 8
# The model looks at 224 pixels; a little more keeps what its own resizing does like that of the full frame.
SHORT_SIDE_PX = 288
JPEG_QUALITY = 90


class VideoUnreadable(Exception):
    """The file is no video, or not one that FFmpeg reads."""


class FrameUnreadable(Exception):
    """A scene without a frame that can be decoded."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A stretch of a video, in seconds from its beginning; `number` counts from 0."""

    number: int
    start_s: float
    end_s: float

    def moments_s(self) -> list[float]:
        """When its thumbnails are taken: in the middle, or in the middles of equal parts of a long scene."""
        length_s = self.end_s - self.start_s
        parts = min(MOST_THUMBNAILS, max(1, math.ceil(length_s / SECONDS_PER_THUMBNAIL)))
        return [self.start_s + length_s * (part + 0.5) / parts for part in range(parts)]


def find_scenes(path: Path, *, show_progress: bool = False) -> list[Scene]:
    """Decode the whole video and return its scenes in order; one without a cut is one. Raises `VideoUnreadable`."""
    # It compares change with that of the frames around: what only moves within a scene does not cut it.
    manager = SceneManager()
    manager.add_detector(AdaptiveDetector())
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise VideoUnreadable(f"{path}: has no pictures, only sound or text")
        manager.detect_scenes(VideoStreamAv(path, suppress_output=True), show_progress=show_progress)
    except (OSError, VideoOpenFailure, av.FFmpegError) as error:
        raise VideoUnreadable(f"{path}: {error}") from error
    found = manager.get_scene_list(start_in_scene=True)
    return [Scene(number, start.seconds, end.seconds) for number, (start, end) in enumerate(found)]


def thumbnails(path: Path, scenes: Iterable[Scene]) -> Iterator[tuple[Scene, list[bytes] | FrameUnreadable]]:
    """Yield each scene with its JPEGs, or with the reason why it has none; the others are none the worse for it."""
    with av.open(path) as container:
        for scene in scenes:
            try:
                yield scene, [_jpeg(_frame_at(container, moment_s)) for moment_s in scene.moments_s()]
            except (av.FFmpegError, FrameUnreadable) as error:
                yield scene, FrameUnreadable(str(error))


def _frame_at(container: av.container.InputContainer, moment_s: float) -> av.VideoFrame:
    """The frame that is shown at a moment, or the last one there is."""
    time_s = _start_s(container.streams.video[0]) + moment_s
    for earlier_s in _earlier_s(moment_s):
        container.seek(int((time_s - earlier_s) * av.time_base))  # to the key frame before it
        frames = container.decode(video=0)
        frame = next(frames, None)
        if frame is not None and (frame.time is None or frame.time <= time_s):
            break
    if frame is None:
        raise FrameUnreadable(f"no frame at {moment_s:.1f} s")
    for following in frames:
        if following.time is not None and following.time > time_s:
            break
        frame = following
    return frame


def _earlier_s(moment_s: float) -> list[float]:
    """How long before a moment to seek, until a frame that is not later comes; the last is before the beginning.

    MPEG-TS has no list of key frames: a seek ends at any frame, and decoding begins with the next key frame only.
    """
    return [0.0, *(2.0**power for power in range(math.ceil(math.log2(moment_s + 1)) + 1))]


def _start_s(stream: av.VideoStream) -> float:
    """What its clock says at its first frame, from which scenes count: in a broadcast it has run for long by then."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _jpeg(frame: av.VideoFrame) -> bytes:
    # Phones write pictures lying down, with a note that they are to be turned: players heed it, decoders do not.
    image = frame.to_image().rotate(frame.rotation, expand=True)
    scale = min(1.0, SHORT_SIDE_PX / min(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
