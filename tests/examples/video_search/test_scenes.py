"""Scenes are found where the light changes and not where something moves; thumbnails are what a player shows."""

import io
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.video_search.scenes import (
    MOST_THUMBNAILS,
    FrameUnreadable,
    Scene,
    VideoUnreadable,
    find_scenes,
    thumbnails,
)
from models.shapes_video import STORY
from tests.examples.video_search.site import FRAMES_PER_S, write_video

ONE_FRAME_S = 1 / FRAMES_PER_S


def plain(colour: str, size: tuple[int, int] = (320, 240)) -> Image.Image:
    return Image.new("RGB", size, colour)


def opened(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def test_scenes_are_the_drawn_ones(drawn: Path) -> None:
    """What appears, moves, turns or changes its colour within a scene does not cut it."""
    ends_s = np.cumsum([shot.seconds for shot in STORY])
    scenes = find_scenes(drawn)

    assert list(range(len(STORY))) == [scene.number for scene in scenes]
    assert [0.0, *ends_s] == pytest.approx([scenes[0].start_s, *(scene.end_s for scene in scenes)], abs=ONE_FRAME_S)
    assert [scene.end_s for scene in scenes[:-1]] == [scene.start_s for scene in scenes[1:]]


def test_video_without_a_cut_is_one_scene(tmp_path: Path) -> None:
    """From its first frame to its last."""
    [scene] = find_scenes(write_video(tmp_path / "still.mp4", [plain("grey")] * 36))

    assert (0, 0.0) == (scene.number, scene.start_s)
    assert scene.end_s == pytest.approx(3.0, abs=ONE_FRAME_S)


@pytest.mark.parametrize(
    ("scene", "expected_s"),
    [
        pytest.param(Scene(0, 10.0, 12.0), [11.0], id="short: the middle"),
        pytest.param(Scene(0, 10.0, 15.0), [12.5], id="just short"),
        pytest.param(Scene(0, 10.0, 16.0), [11.5, 14.5], id="long: the middles of its halves"),
        pytest.param(Scene(0, 10.0, 10.0), [10.0], id="a single frame"),
    ],
)
def test_long_scenes_have_several_thumbnails(scene: Scene, expected_s: list[float]) -> None:
    """One for each five seconds that have begun, evenly spread."""
    assert expected_s == scene.moments_s()


def test_thumbnails_of_a_scene_are_bounded() -> None:
    """A film in one take costs no more than that."""
    assert MOST_THUMBNAILS == len(Scene(0, 0.0, 7200.0).moments_s())


def test_thumbnail_is_the_frame_of_its_moment(tmp_path: Path) -> None:
    """Not the key frame before it."""
    frames = [plain("red")] * 12 + [plain("blue")] * 12 + [plain("lime")] * 12
    video = write_video(tmp_path / "colours.mp4", frames)
    [(_, pictures)] = thumbnails(video, [Scene(0, 1.0, 2.0)])

    assert isinstance(pictures, list)
    assert (0, 0, 254) == pytest.approx(opened(pictures[0]).getpixel((100, 100)), abs=8)


def test_thumbnail_of_a_still_is_not_of_what_comes_then(tmp_path: Path) -> None:
    """A recorded screen has no frames while nothing changes: what is shown then is the one before."""
    frames = [plain("red")] * 12 + [plain("blue")] * 12
    video = write_video(tmp_path / "slides.mp4", frames, stands_s=8)
    [(_, pictures)] = thumbnails(video, [Scene(0, 0.0, 9.0)])

    assert isinstance(pictures, list)
    assert 1 < len(pictures)
    for jpeg in pictures:
        assert (254, 0, 0) == pytest.approx(opened(jpeg).getpixel((100, 100)), abs=8)


@pytest.mark.parametrize("start_s", [pytest.param(0, id="at once"), pytest.param(10, id="ten seconds late")])
@pytest.mark.parametrize(
    "key_frames", [pytest.param(FRAMES_PER_S, id="each second"), pytest.param(250, id="the first")]
)
@pytest.mark.parametrize("name", ["recorded.ts", "recorded.mp4", "recorded.mkv"])
def test_thumbnails_are_of_their_scenes_wherever_a_video_begins(
    tmp_path: Path, name: str, key_frames: int, start_s: int
) -> None:
    """A recording's clock need not begin at 0, and MPEG-TS does not say where its key frames are."""
    frames = [plain(colour) for colour in ("red", "lime", "blue") for _ in range(3 * FRAMES_PER_S)]
    video = write_video(tmp_path / name, frames, key_frames=key_frames, start_s=start_s)
    shown = list(thumbnails(video, find_scenes(video)))

    assert [0.0, 3.0, 6.0] == pytest.approx([scene.start_s for scene, _ in shown], abs=ONE_FRAME_S)
    jpegs = [jpeg for _, pictures in shown if isinstance(pictures, list) for jpeg in pictures]
    pixels = [opened(jpeg).getpixel((100, 100)) for jpeg in jpegs]
    assert [pytest.approx(colour, abs=8) for colour in ((254, 0, 0), (0, 254, 0), (0, 0, 254))] == pixels


def test_large_frames_are_reduced(tmp_path: Path) -> None:
    """What is sent has what the model looks at, and no more; the ratio of the sides stays."""
    video = write_video(tmp_path / "large.mp4", [plain("red", (1280, 720))] * 12)
    [(_, pictures)] = thumbnails(video, [Scene(0, 0.0, 1.0)])

    assert isinstance(pictures, list)
    assert (512, 288) == opened(pictures[0]).size


def turn(video: Path) -> None:
    """Note in an MP4 that its pictures are to be turned by a quarter, clockwise, as a phone held upright does."""
    content = bytearray(video.read_bytes())
    # Version and flags, times, id, reserved, duration, reserved, layer, group, volume, reserved: then the matrix.
    matrix = content.index(b"tkhd") + 4 + 40
    quarter = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = struct.pack(">9i", *quarter)
    video.write_bytes(content)


def test_pictures_of_a_phone_stand_upright(tmp_path: Path) -> None:
    """As a player shows them: what was at the left of the sensor is on top."""
    lying = plain("blue")
    lying.paste("red", (0, 0, 160, 240))
    video = write_video(tmp_path / "phone.mp4", [lying] * 12)
    turn(video)
    [(_, pictures)] = thumbnails(video, [Scene(0, 0.0, 1.0)])

    assert isinstance(pictures, list)
    picture = opened(pictures[0])
    assert (240, 320) == picture.size
    assert [(254, 0, 0), (0, 0, 254)] == [pytest.approx(picture.getpixel(at), abs=8) for at in ((120, 40), (120, 280))]


@pytest.mark.parametrize("content", [pytest.param(b"", id="empty"), pytest.param(b"no video " * 100, id="text")])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    """The message has the file."""
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)

    with pytest.raises(VideoUnreadable, match=r"notes\.mp4"):
        find_scenes(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    """It is named like anything else that is none."""
    with wave.open(str(tmp_path / "song.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 8000, "NONE", ""))
        file.writeframes(bytes(16000))

    with pytest.raises(VideoUnreadable, match=r"song\.wav: has no pictures"):
        find_scenes(tmp_path / "song.wav")


def test_scene_without_a_frame_costs_itself_only(tmp_path: Path) -> None:
    """The scenes around it have their thumbnails, whatever a disk has done to those frames."""
    noise = [Image.fromarray(np.random.default_rng(seed).integers(0, 255, (96, 96, 3), np.uint8)) for seed in range(36)]
    video = write_video(tmp_path / "noise.mp4", noise, key_frames=12)
    content = bytearray(video.read_bytes())
    broken = slice(len(content) * 40 // 100, len(content) * 55 // 100)
    content[broken] = bytes(len(content[broken]))
    video.write_bytes(content)
    scenes = [Scene(0, 0.0, 0.5), Scene(1, 1.2, 1.6), Scene(2, 2.4, 2.9)]

    found = [pictures for _, pictures in thumbnails(video, scenes)]
    assert [list, FrameUnreadable, list] == [type(pictures) for pictures in found]
