"""`/metrics`: valid in Prometheus' text format, and true after work was done."""

import requests
from prometheus_client.parser import text_string_to_metric_families

from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.testbed.image_server import ImageServer
from tools.testbed.process import TINY_MODEL, PodProcess
from tools.testbed.target import signed_image, signed_text

SOON_S = 30.0
RED_CIRCLE = (TINY_MODEL / "examples" / "red-circle.png").read_bytes()


def samples(pod: PodProcess) -> dict[tuple[str, str | None], float]:
    answer = requests.get(pod.base_url + "/metrics", timeout=SOON_S)
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status_code, answer.headers["Content-Type"])
    families = text_string_to_metric_families(answer.text)
    return {(one.name, one.labels.get("modality")): one.value for family in families for one in family.samples}


def test_work_is_counted_by_modality(pod: PodProcess, images: ImageServer) -> None:
    """One image and two texts more, in passes that took time, and each of them again, which is none; a refused request
    counts nothing.
    """
    before = samples(pod)
    texts = [f"{text} that is counted" for text in ("a red circle", "a blue square")]
    for text in 2 * texts:
        requests.post(pod.base_url + EMBED_TEXT, json=signed_text(text), timeout=SOON_S).raise_for_status()
    # A file that no other test has sent.
    url = images.add("/counted.png", RED_CIRCLE + b"counted")
    for _ in range(2):
        requests.post(pod.base_url + EMBED_IMAGE, json=signed_image(url), timeout=SOON_S).raise_for_status()
    requests.post(pod.base_url + EMBED_TEXT, json={"text": "unsigned"}, timeout=SOON_S)
    after = samples(pod)
    grown = {key: after[key] - before.get(key, 0.0) for key in after}

    assert (2.0, 1.0) == (grown["clip_embedded_items_total", "text"], grown["clip_embedded_items_total", "image"])
    assert (2.0, 1.0) == (grown["clip_forward_passes_total", "text"], grown["clip_forward_passes_total", "image"])
    assert (2.0, 1.0) == (grown["clip_cache_hits_total", "text"], grown["clip_cache_hits_total", "image"])
    assert (2.0, 1.0) == (grown["clip_cache_misses_total", "text"], grown["clip_cache_misses_total", "image"])
    assert grown["clip_forward_seconds_total", "image"] > 0
    assert grown["clip_queue_seconds_total", "image"] >= 0
    assert 0.0 == after["clip_queued_items", None]
