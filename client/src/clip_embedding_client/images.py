"""Images as people have them, made into what is sent: a URL as it stands, or the bytes of a file."""

from __future__ import annotations

import io
import os
import sys
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clip_embedding_client.errors import ClipClientError, FileUnreadable, ImageTooLarge, ValidationFailed
from clip_embedding_client.signing import image_content_payload_id, image_payload_id
from clip_embedding_client.signing.contract import MAX_URL_CHARACTERS
from clip_embedding_client.values import ImageItem, check_item, check_text

if TYPE_CHECKING:
    from clip_embedding_client.values import ImageSource

# No service takes more unless its MAX_IMAGE_SIZE_BYTES says so, and a file of gigabytes is a mistake.
_MOST_BYTES = 100 * 1024 * 1024
# What PNG can hold; the others are converted, as the service would, by way of these. Integers are a file's grey of 16
# bits: Pillow would cut them off at 255.
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_CONVERTED = {"PA": ("RGBA",), "La": ("LA",), "RGBa": ("RGBA",), "I": ("I;16",), "I;16B": ("I", "I;16")}
_TO_COLOURS = ("RGB",)


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image that can be sent: as `url`, or as `base64`, which stands for the `size_bytes` of a file."""

    url: str | None
    base64: str | None
    size_bytes: int
    request_id: str
    normalize: bool
    payload_id: str


def takes_long(source: ImageSource) -> bool:
    """Whether loading it takes long: a file is read, a picture encoded, bytes are hashed."""
    return not isinstance(source, str)


def loaded(item: ImageItem) -> LoadedImage:
    """Read what is to be sent. Raises `ValidationFailed`, `FileUnreadable` or `ImageTooLarge`."""
    check_item(item.request_id, normalize=item.normalize)
    if isinstance(item.image, str):
        # A subclass may be written one way and signed another, such as an enum's member.
        url = str.__str__(item.image)
        check_text("the image URL", url, MAX_URL_CHARACTERS, item.request_id)
        return LoadedImage(url, None, 0, item.request_id, item.normalize, image_payload_id(url))
    content = _content(item.image, item.request_id)
    if not content:
        raise ValidationFailed("the image has no bytes", request_id=item.request_id)
    if len(content) > _MOST_BYTES:
        raise ImageTooLarge(f"the image has more than {_MOST_BYTES:,} bytes", request_id=item.request_id)
    encoded = b64encode(content).decode("ascii")
    identity = image_content_payload_id(content)
    return LoadedImage(None, encoded, len(content), item.request_id, item.normalize, identity)


def _content(source: Any, request_id: str) -> bytes:  # noqa: ANN401 - whatever a caller gives
    try:
        if isinstance(source, (bytes, bytearray, memoryview)):
            return bytes(source)
        if isinstance(source, os.PathLike):
            with open(source, "rb") as file:
                return file.read(_MOST_BYTES + 1)
        if _is_pil_image(source):
            return _as_png(source)
        if hasattr(source, "read"):
            return _read(source, request_id)
    except ClipClientError:
        raise
    # ValueError: a closed file, a path with a null byte. What a picture's own decoder raises may be of any kind.
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise FileUnreadable(f"the image cannot be read: {reason}", request_id=request_id) from error
    raise ValidationFailed(
        f"an image is a URL, a path, bytes, a binary file or a PIL image, not {type(source).__name__}",
        request_id=request_id,
    )


def _read(file: Any, request_id: str) -> bytes:  # noqa: ANN401
    """A pipe, or a file without a buffer, gives less at once than it is asked for."""
    content = bytearray()
    while len(content) <= _MOST_BYTES:
        piece = file.read(_MOST_BYTES + 1 - len(content))
        if not isinstance(piece, bytes):
            raise ValidationFailed("the file is not open in binary mode", request_id=request_id)
        if not piece:
            break
        content += piece
    return bytes(content)


def _is_pil_image(source: object) -> bool:
    """Without importing Pillow: where nobody has, nobody has such an image either."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def _as_png(image: Any) -> bytes:  # noqa: ANN401 - Pillow is not a dependency
    """Without loss, and turned as its EXIF orientation says: the service would do so with its file."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode not in _PNG_MODES:
        for mode in _CONVERTED.get(upright.mode, _TO_COLOURS):
            upright = upright.convert(mode)
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
