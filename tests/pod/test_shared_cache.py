"""What one pod has embedded another one answers, over one real Redis; and what becomes of answers without it."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import pytest
from redis import Redis as Client

from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded, natural
from tools.testbed.process import pod_process
from tools.testbed.redis import Redis, is_installed, redis_server
from tools.testbed.target import PodTarget, signed_content, signed_image, signed_text

# Seconds that leave a hanging test time to fail.
NET_S = 60.0


@pytest.fixture
def redis() -> Iterator[Redis]:
    if not is_installed():
        pytest.skip("there is no redis-server: `make redis` installs it")
    with redis_server() as server:
        yield server


def wait_for_rows(redis: Redis, count: int) -> None:
    """They are written after the answers."""
    until_s = time.monotonic() + NET_S
    with closing(Client.from_url(redis.url)) as client:
        while cast(int, client.dbsize()) < count:
            assert time.monotonic() < until_s
            time.sleep(0.01)


def asked(base_url: str, url: str, content: bytes) -> list[Any]:
    """The bodies of a text, an image by URL and one by content."""
    target = PodTarget(base_url)
    requests = [(EMBED_TEXT, signed_text("a red circle")), (EMBED_IMAGE, signed_image(url))]
    requests.append((EMBED_IMAGE, signed_content(content)))
    return [target.send(path, body).body for path, body in requests]


def test_two_pods_share_vectors(redis: Redis, images: ImageServer) -> None:
    """The second one answers `cached` from its first request on, bit for bit the same."""
    files = [encoded(natural(200, side), "PNG") for side in (211, 212)]
    url = images.add("/shared-cache.png", files[0])
    settings = {"CACHE_URL": redis.url}
    with pod_process(settings) as pod:
        first = asked(pod.base_url, url, files[1])
        wait_for_rows(redis, 3)
    with pod_process(settings) as pod:
        again = asked(pod.base_url, url, files[1])

    assert [None] * 3 == [one.get("cached") for one in first]
    assert [True] * 3 == [one.get("cached") for one in again]
    assert [one["embedding"] for one in first] == [one["embedding"] for one in again]


def test_pod_without_its_redis_computes(redis: Redis, images: ImageServer) -> None:
    """Everything is answered while it is away, and the log says so once, without the password."""
    file = encoded(natural(200, 213), "PNG")
    url = images.add("/shared-cache-away.png", file)
    address = redis.url.replace("redis://", "redis://:hidden@")
    redis.stop()
    with pod_process({"CACHE_URL": address}) as pod:
        answers = asked(pod.base_url, url, encoded(natural(200, 214), "PNG"))
        pod.wait_for_log("the shared cache is away")
        log = pod.log()

    assert [512] * 3 == [one["dim"] for one in answers]
    assert 1 == log.count("the shared cache is away")
    assert "hidden" not in log
