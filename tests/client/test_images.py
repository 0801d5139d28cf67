"""Images as people have them: what of each is sent, and what is refused before anything is."""

import io
import os
import random
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_embedding_client import ClipClientError, Embedding, FileUnreadable, ImageItem, TextItem, errors
from clip_embedding_client.errors import ValidationFailed
from clip_embedding_client.images import LoadedImage, loaded
from clip_embedding_client.signing import image_content_payload_id, image_payload_id
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.images.decoding.pixels import PixelDecoder
from tests.client.scripted import FakeBackend, client_of

CONTENT = bytes(random.Random(7).randbytes(1000))  # noqa: S311 - no secret
SIZE_PX = 32


def load(source: Any) -> LoadedImage:  # noqa: ANN401 - whatever a caller gives
    return loaded(ImageItem(source, "scene-1", normalize=False))


class Address(str, Enum):  # noqa: UP042 - as in code for Python 3.10, whose users format it as its name
    """As settings often hold theirs."""

    THUMBNAIL = "https://example.com/a.jpg"


def sent(source: Any) -> bytes:  # noqa: ANN401
    """The bytes of the file that goes to the service."""
    image = load(source)
    assert image.base64 is not None
    content = b64decode(image.base64, validate=True)
    assert (None, len(content)) == (image.url, image.size_bytes)
    assert (image_content_payload_id(content), "scene-1", False) == (
        image.payload_id,
        image.request_id,
        image.normalize,
    )
    return content


def refusal(source: Any) -> ClipClientError:  # noqa: ANN401
    with pytest.raises(ClipClientError) as caught:
        load(source)
    assert "scene-1" == caught.value.request_id
    assert caught.value.message.isprintable()
    return caught.value


@pytest.mark.parametrize("url", [Address.THUMBNAIL, np.str_(Address.THUMBNAIL.value)], ids=["enum", "numpy"])
def test_string_of_another_kind_is_signed_as_it_is_sent(url: str) -> None:
    """Formatted, an enum's member is its name."""
    plain = "https://example.com/a.jpg"
    image = load(url)

    assert (str, plain, image_payload_id(plain)) == (type(image.url), image.url, image.payload_id)


@pytest.mark.parametrize("normalize", [1, None, "yes", np.True_], ids=repr)
def test_normalize_is_true_or_false(normalize: Any) -> None:  # noqa: ANN401
    """The service would refuse the whole batch, and JSON has no boolean of NumPy's."""
    fine = TextItem("fine")
    backend = FakeBackend()
    with pytest.raises(ValidationFailed, match="normalize must be True or False"):
        loaded(ImageItem("https://example.com/a.jpg", "scene-1", normalize=normalize))

    served, refused = client_of([backend]).embed_texts([fine, TextItem("odd", normalize=normalize)])

    assert isinstance(served, Embedding)
    assert isinstance(refused, ValidationFailed)


@pytest.mark.parametrize("url", ["https://example.com/a.jpg?b=c#d", "/etc/hostname", "a.png", "file:///etc/hostname"])
def test_string_is_always_a_url(url: str) -> None:
    """It is sent as it stands, and no string of a stranger ever opens a file."""
    expected = LoadedImage(url, None, 0, "scene-1", normalize=False, payload_id=image_payload_id(url))
    assert expected == load(url)


@dataclass(frozen=True, slots=True)
class Located:
    """A path of somebody else's making."""

    path: str

    def __fspath__(self) -> str:
        return self.path


class Dripping(io.RawIOBase):
    """A pipe, or a file without a buffer: it gives three bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        piece, self._left = self._left[:3], self._left[3:]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize(
    "source_of",
    [
        pytest.param(lambda _path: CONTENT, id="bytes"),
        pytest.param(lambda _path: bytearray(CONTENT), id="bytearray"),
        pytest.param(lambda _path: memoryview(CONTENT), id="memoryview"),
        pytest.param(lambda _path: memoryview(bytes(1) + CONTENT)[1:], id="part of a memoryview"),
        pytest.param(lambda _path: memoryview(CONTENT[::-1])[::-1], id="memoryview backwards"),
        pytest.param(lambda _path: memoryview(CONTENT).cast("I"), id="memoryview of integers"),
        pytest.param(lambda path: path, id="path"),
        pytest.param(lambda path: Located(str(path)), id="another path"),
        pytest.param(lambda _path: io.BytesIO(CONTENT), id="file in memory"),
        pytest.param(lambda _path: Dripping(CONTENT), id="file that gives little at a time"),
        pytest.param(lambda _path: io.BufferedReader(Dripping(CONTENT)), id="the same with a buffer"),
    ],
)
def test_content_is_sent_itself(source_of: Callable[[Path], object], tmp_path: Path) -> None:
    """The bytes of an image, and the signature of these bytes, however the caller holds them."""
    path = tmp_path / "image.jpg"
    path.write_bytes(CONTENT)

    assert CONTENT == sent(source_of(path))


def test_open_file(tmp_path: Path) -> None:
    """It is read from where it stands, and left open: it is the caller's."""
    path = tmp_path / "image.jpg"
    path.write_bytes(b"head" + CONTENT)
    with path.open("rb") as file:
        file.seek(4)

        assert CONTENT == sent(file)
        assert not file.closed
        assert errors.ValidationFailed is type(refusal(file))


def test_caller_may_change_what_was_loaded() -> None:
    """What is sent is of the moment when it was given."""
    given_bytes = bytearray(CONTENT)
    image = load(given_bytes)
    given_bytes[:] = bytes(len(CONTENT))

    assert CONTENT == b64decode(image.base64 or "")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(None, id="nothing"),
        pytest.param(7, id="number"),
        pytest.param([b"a"], id="list"),
        pytest.param(np.zeros((2, 2, 3), np.uint8), id="array"),
        pytest.param(ImageItem("http://a/"), id="item in an item"),
        pytest.param(b"", id="no bytes"),
        pytest.param(bytearray(), id="empty bytearray"),
        pytest.param(io.BytesIO(), id="empty file"),
        pytest.param(io.StringIO("text"), id="text in memory"),
        pytest.param("", id="no URL"),
        pytest.param("http://a/" + "x" * 4096, id="URL that is too long"),
        pytest.param("http://a/\ud800", id="URL that is not Unicode"),
    ],
)
def test_what_is_no_image(source: object) -> None:
    """It is the caller's mistake, and says so without showing what it was."""
    error = refusal(source)

    assert errors.ValidationFailed is type(error)
    assert "xxx" not in error.message


def test_text_file(tmp_path: Path) -> None:
    """A file that is open as text has been decoded already: its bytes are gone."""
    path = tmp_path / "image.txt"
    path.write_text("text")
    with path.open() as file:
        assert "the file is not open in binary mode" == refusal(file).message


def closed_file() -> io.BytesIO:
    file = io.BytesIO(CONTENT)
    file.close()
    return file


def released_view() -> memoryview:
    view = memoryview(CONTENT)
    view.release()
    return view


class Failing(io.RawIOBase):
    """A file whose reading fails in a way of its own."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:  # noqa: ANN401
        raise RuntimeError("https://private.example/")


class Unlocatable:
    """A path that does not know where it is."""

    def __fspath__(self) -> str:
        raise KeyError("private")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(Path("/nowhere/private.jpg"), "No such file or directory", id="missing file"),
        pytest.param(Path("/"), "Is a directory", id="folder"),
        pytest.param(Path("/private\0.jpg"), "ValueError", id="path with a null byte"),
        pytest.param(Unlocatable(), "KeyError", id="path that fails"),
        pytest.param(closed_file(), "ValueError", id="closed file"),
        pytest.param(released_view(), "ValueError", id="released memoryview"),
        pytest.param(Failing(), "RuntimeError", id="file that fails"),
    ],
)
def test_what_cannot_be_read(source: object, reason: str) -> None:
    """The reason is the system's, or the kind of the error; neither path nor words of others get into the message."""
    error = refusal(source)

    assert FileUnreadable is type(error)
    assert f"the image cannot be read: {reason}" == error.message
    assert error.__cause__ is not None


def test_file_without_end(tmp_path: Path) -> None:
    """More than any service takes is refused, whatever it is, and is not read to its end."""
    path = tmp_path / "endless"
    with path.open("wb") as file:
        # Holes: nothing of it is on the disk.
        file.truncate(2**40)
    with path.open("rb") as file:
        assert errors.ImageTooLarge is type(refusal(file))
        assert 100 * 1024 * 1024 + 1 == file.tell()
    assert errors.ImageTooLarge is type(refusal(path))


def test_none_of_it_harms_a_batch() -> None:
    """Whatever is given in place of an image, the others have their vectors."""
    backend = FakeBackend()
    results = client_of([backend]).embed_images([b"good", None, Path("/nowhere"), closed_file(), "http://a/"])  # type: ignore[list-item]

    assert [None, errors.ValidationFailed, FileUnreadable, FileUnreadable, None] == [
        type(result) if isinstance(result, ClipClientError) else None for result in results
    ]
    assert 1 == len(backend.calls)


GRADIENT = np.add.outer(np.arange(SIZE_PX), np.arange(SIZE_PX) * 5).astype(np.uint8)
COLOURS = np.dstack([GRADIENT, GRADIENT.T, GRADIENT[::-1]])


def picture(mode: str) -> Image.Image:
    """One with different values everywhere, and some that are transparent where the mode has such."""
    if mode == "1":
        return Image.fromarray(GRADIENT).point(lambda value: value & 16 and 255).convert("1")
    if mode == "I;16":
        return Image.fromarray(GRADIENT.astype(np.uint16) * 257 + 3)
    rgba = Image.fromarray(np.dstack([COLOURS, GRADIENT]))
    if mode == "P":
        return rgba.convert("RGB").quantize(64)
    return rgba.convert(mode) if mode in ("LA", "RGBA") else rgba.convert("RGB").convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def assert_same_pixels(file: bytes, *, tolerance: int = 0, size_px: int = SIZE_PX) -> None:
    """The service sees in the picture what it sees in its file."""
    decoder = PixelDecoder(size_px, max_pixels=10_000)
    with Image.open(io.BytesIO(file)) as image:
        content = sent(image)

    difference = decoder.decode(file).astype(int) - decoder.decode(content).astype(int)
    assert tolerance >= np.abs(difference).max()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_picture_is_its_file(mode: str) -> None:
    """An image of Pillow's gives the very pixels that its file would, in every mode that a PNG has."""
    file = saved(picture(mode), "PNG")
    with Image.open(io.BytesIO(file)) as image:
        assert mode == image.mode

    assert_same_pixels(file)


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [
        pytest.param("1", 0, id="1"),
        pytest.param("L", 60, id="L"),
        pytest.param("P", 3, id="P"),
        pytest.param("P", bytes(range(0, 256, 4)), id="P, each colour in its own degree"),
        pytest.param("RGB", (5, 5, 155), id="RGB"),
        pytest.param("I;16", 3, id="I;16"),
    ],
)
def test_picture_with_transparent_colours(mode: str, transparency: object) -> None:
    """What a file says to be transparent stays so."""
    assert_same_pixels(saved(picture(mode), "PNG", transparency=transparency))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_orientation_of_a_picture(form: str, orientation: int) -> None:
    """EXIF turns it as the service would turn its file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(Image.fromarray(COLOURS[: SIZE_PX // 2]), form, exif=exif)

    with Image.open(io.BytesIO(file)) as image:
        arrived = Image.open(io.BytesIO(sent(image)))
    assert ((SIZE_PX // 2, SIZE_PX) if orientation >= 5 else (SIZE_PX, SIZE_PX // 2)) == arrived.size
    # Another decoder of JPEG, and a colour is off by one.
    assert_same_pixels(file, tolerance=1 if form == "JPEG" else 0, size_px=SIZE_PX // 2)


def test_picture_of_four_inks() -> None:
    """A JPEG of CMYK is what the service makes of it, up to rounding: another decoder, and another formula."""
    assert_same_pixels(saved(picture("CMYK"), "JPEG", quality=100), tolerance=3)


@pytest.mark.parametrize(
    ("mode", "source", "expected"),
    [
        pytest.param("CMYK", "RGB", "RGB", id="CMYK"),
        pytest.param("YCbCr", "RGB", "RGB", id="YCbCr"),
        pytest.param("HSV", "RGB", "RGB", id="HSV"),
        pytest.param("LAB", "RGB", "RGB", id="LAB"),
        pytest.param("RGBX", "RGB", "RGB", id="RGBX"),
        pytest.param("F", "L", "RGB", id="F"),
        pytest.param("La", "LA", "LA", id="La"),
        pytest.param("RGBa", "RGBA", "RGBA", id="RGBa"),
        pytest.param("PA", "P", "RGBA", id="PA"),
    ],
)
def test_modes_that_no_png_has(mode: str, source: str, expected: str) -> None:
    """They are sent as Pillow converts them, transparency kept."""
    image = picture(source).convert(mode)
    arrived = Image.open(io.BytesIO(sent(image)))

    assert (mode, expected) == (image.mode, arrived.mode)
    assert arrived.tobytes() == image.convert(expected).tobytes()


@pytest.mark.parametrize("mode", ["I", "I;16B"])
def test_integers_are_grey_of_16_bits(mode: str) -> None:
    """Older Pillows open such a file so; cut off at 255, it would be white."""
    grey = picture("I;16")
    given_image = grey.convert("I") if mode == "I" else _big_endian(grey)

    assert mode == given_image.mode
    assert sent(grey) == sent(given_image)


def _big_endian(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(">u2")
    return Image.frombytes("I;16B", image.size, values.tobytes())


def test_picture_is_not_changed() -> None:
    """It is the caller's: neither turned nor converted in place."""
    image = picture("CMYK")
    before = image.tobytes()
    sent(image)

    assert ("CMYK", before) == (image.mode, image.tobytes())


def test_picture_that_is_damaged() -> None:
    """Pillow finds out when it is decoded, which is here."""
    file = saved(Image.fromarray(COLOURS), "PNG")
    with Image.open(io.BytesIO(file[: len(file) // 2])) as image:
        assert FileUnreadable is type(refusal(image))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(st.characters())


@given(SCALARS | st.lists(SCALARS, max_size=2))
def test_whatever_is_given(source: object) -> None:
    """It is loaded as what it is, or is the caller's mistake: nothing else is raised."""
    try:
        image = load(source)
    except errors.ValidationFailed:
        return

    assert isinstance(source, (str, bytes))
    assert source == (image.url if isinstance(source, str) else b64decode(image.base64 or ""))


def test_special_file_of_the_system() -> None:
    """One that never ends is not read for ever."""
    assert errors.ImageTooLarge is type(refusal(Path(os.devnull).with_name("zero")))
