"""What an image process is told: the service's limits, shared out."""

from core.images.fetch.resolver import MAX_LOOKUPS
from core.images.settings import child_settings
from core.images.work import STACK_BYTES
from core.settings import load_settings


def test_memory_covers_all_that_may_be_held_at_once() -> None:
    """One decode, its share of the downloads, and a stack for every download and every lookup that may run."""
    few = child_settings(load_settings({"ALLOW_INSECURE_AUTH": "1"}), 224, processes=2, in_turns=True)
    many = child_settings(
        load_settings({"ALLOW_INSECURE_AUTH": "1", "MAX_CONCURRENT_REQUESTS": "1064"}), 224, processes=2, in_turns=True
    )

    stacks_bytes = MAX_LOOKUPS * STACK_BYTES

    assert few.max_memory_bytes > few.max_decoder_bytes + few.max_downloaded_bytes + stacks_bytes
    assert 1000 * 512 * 1024 == many.max_memory_bytes - few.max_memory_bytes


def test_downloads_are_shared_out_but_one_image_always_fits() -> None:
    """However many processes there are."""
    settings = load_settings({"ALLOW_INSECURE_AUTH": "1", "MAX_IMAGE_BYTES_IN_FLIGHT": "104857600"})
    shares = [child_settings(settings, 224, processes=count, in_turns=True).max_downloaded_bytes for count in (2, 1000)]

    assert [52_428_800, 20_971_520] == shares
