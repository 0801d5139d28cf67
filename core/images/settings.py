"""What an image process is told of the service's settings: limits of downloads and decoding, and whom it may reach."""

from core.images.downloads import LENT_PLACES
from core.images.fetch.resolver import MAX_LOOKUPS
from core.images.messages import ChildSettings
from core.images.work import STACK_BYTES
from core.settings import ServiceSettings

# A file that will take longer than this is decoded apart: others would wait behind it. Photographs of 50 megapixels as
# JPEG are quick, a PNG or WebP of more than 6 or 7 megapixels is not.
SLOW_S = 0.15

# The interpreter with its libraries, and what the C library keeps of past decodes.
_BASE_BYTES = 201_326_592


def child_settings(settings: ServiceSettings, size_px: int, *, processes: int, in_turns: bool) -> ChildSettings:
    """The part of `settings` that concerns one of `processes`; what is for all of them is shared out."""
    stacks_bytes = (settings.max_concurrent_requests + LENT_PLACES + MAX_LOOKUPS) * STACK_BYTES
    downloaded_bytes = max(2 * settings.max_image_size_bytes, settings.max_image_bytes_in_flight // processes)
    return ChildSettings(
        size_px=size_px,
        # Every image that may be anywhere could be in one process; as many again are about to be given up.
        slots=2 * settings.max_queued_items,
        in_turns=in_turns,
        hashes=settings.cache_bytes > 0,
        slow_s=SLOW_S,
        max_requests=settings.max_concurrent_requests,
        max_image_bytes=settings.max_image_size_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_downloaded_bytes=downloaded_bytes,
        max_decoder_bytes=settings.max_decode_bytes,
        # Of what was sent one image at a time is read by whoever decodes, and one by whoever looks at its head.
        max_memory_bytes=_BASE_BYTES
        + stacks_bytes
        + downloaded_bytes
        + 2 * settings.max_image_size_bytes
        + settings.max_decode_bytes,
        download_timeout_s=settings.image_download_timeout_s,
        allow_hosts=settings.download_allow_hosts,
        log_level=settings.log_level,
    )
