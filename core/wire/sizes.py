"""How large a request body may be: as large as the largest batch that the other settings allow."""

from core.settings import ServiceSettings
from shared_auth.contract import MAX_TEXT_CHARACTERS

# A character outside of the basic plane is a pair of \uXXXX.
_MOST_BYTES_OF_A_CHARACTER = 12

# An item without its image or text: names, signature, request id.
_ITEM_BYTES = 4096


def max_body_bytes(settings: ServiceSettings) -> int:
    """MAX_BODY_BYTES, or what it is when it is `auto`."""
    if settings.max_body_bytes != "auto":
        return settings.max_body_bytes
    image_bytes = -(-settings.max_image_size_bytes // 3) * 4
    images_bytes = settings.max_batch_size * (image_bytes + _ITEM_BYTES)
    # Also what a batch of images has to spare, for clients that escape every slash, and for URLs.
    texts_bytes = settings.max_text_batch_size * (MAX_TEXT_CHARACTERS * _MOST_BYTES_OF_A_CHARACTER + _ITEM_BYTES)
    return min(images_bytes + texts_bytes, settings.max_image_bytes_in_flight)
