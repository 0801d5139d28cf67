"""Images that came inside a request: what is decoded, where it lies, and that nothing of it is left behind."""

import base64
import binascii
import gc
import os
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.byte_budget import ByteBudget
from core.errors import ImageTooLarge, InvalidImage, Overloaded
from core.images.content import Content, SentImages, SentLimits
from core.wire.long_strings import LongString
from shared_auth import image_content_payload_id

MAX_IMAGE_BYTES = 1_000_000
PIECE = 262_144


def sent_images(budget: ByteBudget | None = None) -> SentImages:
    return SentImages(SentLimits(MAX_IMAGE_BYTES, budget or ByteBudget(10 * MAX_IMAGE_BYTES)))


def read(content: Content) -> bytes:
    """What an image process would read."""
    descriptor = content.file.duplicate()
    try:
        return os.pread(descriptor, content.size, content.offset)
    finally:
        os.close(descriptor)


def descriptors_of_sent_images() -> int:
    """Of no other kind: threads of other tests may still open and close theirs."""
    gc.collect()
    return sum("memfd:sent-images" in os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))


def reference(text: str) -> bytes | None:
    """Standard base64, all of it, by the library's own strict reading; None for anything else and for nothing."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    # It lets any amount of padding pass behind a whole group.
    return data if data and not text.endswith("===") else None


TEXTS = (
    st.binary(min_size=1, max_size=20).map(lambda data: base64.b64encode(data).decode())
    | st.text(alphabet="AB+/=", max_size=12)
    | st.text(max_size=8)
)


@given(st.lists(TEXTS, max_size=4), st.booleans())
@example(["AAAA===="], False)
def test_any_text_is_its_bytes_or_an_error(texts: list[str], long: bool) -> None:
    """As one string or kept out of the parser: the bytes of standard base64, each image's own, or INVALID_IMAGE."""
    with closing(sent_images()) as images:
        sources = [LongString(memoryview(text.encode("utf-8", "surrogatepass"))) if long else text for text in texts]
        sent = [images.take(source) for source in sources]
        images.seal()
        found = [read(image.content) if image.content else None for image in sent]

    assert [reference(text) for text in texts] == found
    for image, data in zip(sent, found, strict=True):
        assert (data is None) == isinstance(image.error, InvalidImage)
        assert image.payload_id == (None if data is None else image_content_payload_id(data))


@pytest.mark.parametrize("bytes_more", [pytest.param(number, id=f"{number} more") for number in range(-4, 5)])
@pytest.mark.parametrize("long", [pytest.param(False, id="string"), pytest.param(True, id="kept out of the parser")])
def test_pieces_meet_without_a_seam(bytes_more: int, long: bool) -> None:
    """Around the length of a piece, and of two."""
    for pieces in (1, 2):
        data = os.urandom(pieces * PIECE // 4 * 3 + bytes_more)
        text = base64.b64encode(data)
        with closing(sent_images()) as images:
            sent = images.take(LongString(memoryview(text)) if long else text.decode())
            assert sent.content is not None

            assert data == read(sent.content)
            assert image_content_payload_id(data) == sent.payload_id


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A" * (PIECE - 4) + "AAA=" + "AAAA", id="padding where a piece ends"),
        pytest.param("A" * (PIECE - 4) + "AA==" + "AA==", id="padding where two pieces end"),
        pytest.param("A" * PIECE + "====", id="a piece of padding"),
        pytest.param("A" * (PIECE + 1), id="a character more than a piece"),
    ],
)
def test_padding_ends_an_image(text: str) -> None:
    """What is wrong in the whole is wrong in pieces."""
    with closing(sent_images()) as images:
        assert isinstance(images.take(text).error, InvalidImage)


def test_nobody_can_change_what_was_sent() -> None:
    """Whoever has the descriptor reads; it can neither be written nor cut."""
    with closing(sent_images()) as images:
        images.take("AAAA")
        images.seal()
        descriptor = images.duplicate()
        try:
            for change in (lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, 0)):
                with pytest.raises(PermissionError):
                    change()
        finally:
            os.close(descriptor)


def test_a_request_takes_one_descriptor_and_gives_it_back() -> None:
    """However many images it has, and none when it has none; also when it was forgotten instead of closed."""
    before = descriptors_of_sent_images()
    none, many, forgotten = sent_images(), sent_images(), sent_images()
    for images in (many, forgotten):
        for _ in range(16):
            images.take("AAAA")
    held = descriptors_of_sent_images()
    for images in (none, many, many):
        images.close()
    del forgotten, images

    assert before + 2 == held
    assert before == descriptors_of_sent_images()


def test_bytes_are_held_until_the_end() -> None:
    """Over the budget nothing more is taken; what is refused as too large holds no more than the largest image."""
    budget = ByteBudget(2 * MAX_IMAGE_BYTES)
    with closing(sent_images(budget)) as images:
        images.take(base64.b64encode(bytes(MAX_IMAGE_BYTES)).decode())
        images.take(base64.b64encode(bytes(MAX_IMAGE_BYTES + PIECE)).decode())
        with pytest.raises(Overloaded):
            images.take(base64.b64encode(bytes(MAX_IMAGE_BYTES)).decode())
        held = budget.used_bytes

    assert MAX_IMAGE_BYTES < held <= 2 * MAX_IMAGE_BYTES
    assert 0 == budget.used_bytes


def test_file_is_held_as_it_is() -> None:
    """Bytes that were never base64 obey the same rules: named by what they hash to, bounded, and not nothing."""
    with closing(sent_images()) as images:
        one, empty, large, two = (images.take_file(data) for data in (b"ABC", b"", bytes(MAX_IMAGE_BYTES + 1), b"DE"))
        images.seal()
        assert one.content is not None
        assert two.content is not None

        assert (b"ABC", b"DE") == (read(one.content), read(two.content))
    assert (image_content_payload_id(b"ABC"), 3) == (one.payload_id, one.size)
    assert [InvalidImage, ImageTooLarge] == [type(empty.error), type(large.error)]
    assert (None, None) == (empty.content, large.content)


def test_image_that_is_no_base64_costs_its_request_nothing() -> None:
    """The next one begins where it should."""
    with closing(sent_images()) as images:
        broken, good = images.take("A" * PIECE + "!"), images.take("QUJD")

        assert broken.content is None
        assert good.content is not None
        assert b"ABC" == read(good.content)
