"""A primary that dies, or serves nobody, among thousands of items: both clients move them to a real fallback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from clip_embedding_client import ClientSettings, ClipClientError, Embedding, Event, ImageItem, Retried, Switched
from clip_embedding_client.clock import Clock
from clip_embedding_client.values import Vector

from shared_auth.contract import EMBED_IMAGE
from tests.client.twins.conftest import NO_PAUSES
from tests.client.twins.faulty import faulty_server, item_errors
from tests.client.twins.twin import Opened
from tools.testbed.process import ServiceProcess, pod_process
from tools.testbed.target import PodTarget, signed_image

ITEMS = 2000
KILLED_AT = 300
TOLERANCE = 1e-4
MOVES = {
    "CLIP_INFERENCE_BACKEND": "runpod_pod",
    "CLIP_FALLBACK_BACKEND": "runpod_serverless",
    "CLIP_RETRY_ATTEMPTS": "2",
    "CLIP_BREAKER_FAILURES": "1",
    # Once it is down it stays so for as long as this test may take.
    "CLIP_BREAKER_COOL_DOWN_S": "3600",
    "CLIP_TOTAL_TIMEOUT_S": "600",
}


def items_of(urls: Sequence[str]) -> list[ImageItem]:
    """Each its own URL, so that none is asked for twice."""
    return [ImageItem(f"{urls[number % len(urls)]}?{number}", request_id=f"item-{number}") for number in range(ITEMS)]


def assert_right(results: Sequence[Embedding | ClipClientError], expected: Sequence[Vector]) -> None:
    """Each item's vector, once and in its place."""
    assert [f"item-{number}" for number in range(ITEMS)] == [result.request_id for result in results]
    assert [] == [result for result in results if not isinstance(result, Embedding)]
    vectors = np.stack([result.vector for result in results if isinstance(result, Embedding)])
    wanted = np.stack([expected[number % len(expected)] for number in range(ITEMS)])
    assert TOLERANCE > float(np.abs(vectors - wanted).max())


def collect(
    opened: Opened,
    environ: Mapping[str, str],
    items: Sequence[ImageItem],
    *,
    clock: Clock | None = None,
    at: Mapping[int, Callable[[], object]],
) -> tuple[list[Embedding | ClipClientError], list[Event], Mapping[str, int]]:
    """Results and events of all items; `at` says what happens when so many results are there."""
    events: list[Event] = []
    results: list[Embedding | ClipClientError] = []
    with opened(ClientSettings.from_environ(environ), events.append, clock) as client:
        for result in client.iter_images(iter(items)):
            results.append(result)
            at.get(len(results), lambda: None)()
        return results, events, client.counters


@pytest.fixture(scope="session")
def expected(pod_target: PodTarget, urls: list[str]) -> list[Vector]:
    return [pod_target.send(EMBED_IMAGE, signed_image(url)).vector for url in urls]


def backends_of(results: Sequence[Embedding | ClipClientError]) -> list[str]:
    """In the order in which they first answered."""
    return list(dict.fromkeys(result.backend for result in results if isinstance(result, Embedding)))


@pytest.mark.usefixtures("handler")
@pytest.mark.timeout(400)
def test_pod_is_killed_among_thousands(
    opened: Opened, environ: Mapping[str, str], urls: list[str], expected: list[Vector]
) -> None:
    """Every item arrives once, in order, with its right vector; the switch is counted, and told once."""
    with pod_process() as dying:
        moved = {**environ, **MOVES, "CLIP_POD_BASE_URL": dying.base_url}
        results, events, counters = collect(opened, moved, items_of(urls), at={KILLED_AT: dying.kill})

    assert_right(results, expected)
    assert ["runpod_pod", "runpod_serverless"] == backends_of(results)
    assert [Switched("runpod_pod", "runpod_serverless")] == [event for event in events if isinstance(event, Switched)]
    assert 1 == counters["switches"]


@pytest.mark.timeout(400)
def test_pod_that_serves_no_item(
    opened: Opened,
    environ: Mapping[str, str],
    handler: ServiceProcess,
    pod_target: PodTarget,
    urls: list[str],
    expected: list[Vector],
) -> None:
    """A pod that answers, and fails on every single item, is down too: its items move, after its attempts."""
    fingerprint = pod_target.send(EMBED_IMAGE, signed_image(urls[0])).body["fingerprint"]
    with faulty_server(item_errors("INFERENCE_ERROR", fingerprint)) as broken:
        moved = {**environ, **MOVES, "CLIP_POD_BASE_URL": broken.base_url}
        results, events, counters = collect(opened, moved, items_of(urls), clock=NO_PAUSES, at={})
        asked = [seen for seen in broken.seen if seen.method == "POST"]

    assert_right(results, expected)
    assert ["runpod_serverless"] == backends_of(results)
    assert [Switched("runpod_pod", "runpod_serverless")] == [event for event in events if isinstance(event, Switched)]
    # Those that were on their way when it was found down, twice each, and no more.
    assert 1 <= len(asked) / 2 <= 4
    assert {"INFERENCE_ERROR"} == {event.code for event in events if isinstance(event, Retried)}
    assert counters == {"switches": 1, "retries": 16 * len(asked) // 2, "refused_mixes": 0}
