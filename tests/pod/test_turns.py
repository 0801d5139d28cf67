"""Two kinds of clients at one real pod whose decoder and device share cores: neither waits for ever for the other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from shared_auth.contract import EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.chaos.images import image_host, picture_url
from tools.chaos.scenarios import chaos_pod
from tools.testbed.target import signed_batch, signed_text

SOON_S = 60.0

# Three times as many text clients as a pass holds: while it runs, the next one is waiting already.
MAX_BATCH = 4
TEXT_CLIENTS = 3 * MAX_BATCH
SETTINGS = {"CHAOS_IN_TURNS": "1", "MAX_DEVICE_BATCH": str(MAX_BATCH), "REQUEST_TIMEOUT_S": "40"}


@contextmanager
def text_clients(base_url: str) -> Iterator[list[int]]:
    """Ask for texts again and again until the block ends; gives the statuses so far. In the block all have begun."""
    statuses: list[int] = []
    ended, begun = threading.Event(), threading.Barrier(TEXT_CLIENTS + 1)

    def ask(number: int) -> None:
        with requests.Session() as session:
            begun.wait(SOON_S)
            while not ended.is_set():
                answer = session.post(base_url + EMBED_TEXT, json=signed_text(f"{number:08d}"), timeout=SOON_S)
                statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10, 10 + TEXT_CLIENTS)]
    for thread in threads:
        thread.start()
    begun.wait(SOON_S)
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_images_and_texts_are_both_answered() -> None:
    """However many texts wait, a batch of images is embedded; and texts are answered meanwhile."""
    with image_host() as host, chaos_pod(SETTINGS) as pod, text_clients(pod.base_url) as texts:
        batch = signed_batch([picture_url(host, f"{number:08d}") for number in range(11, 27)])
        answers = [requests.post(pod.base_url + EMBED_IMAGE_BATCH, json=batch, timeout=SOON_S).json() for _ in range(2)]
        during = list(texts)

    assert [["embedding"] * 16] * 2 == [
        [next((key for key in ("embedding", "error") if key in result), "") for result in answer["results"]]
        for answer in answers
    ]
    assert {200} == set(during)
