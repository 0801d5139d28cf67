"""What a client that asks for too much is told, by real pods and a real handler, and that the others notice nothing."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from core.wire.openai import EMBEDDINGS
from shared_auth.contract import EMBED_TEXT, EMBED_TEXT_BATCH
from tests.core.no_redis import Drip, answering
from tools.testbed.control_plane import control_plane
from tools.testbed.process import SECRET, PodProcess, handler_process, pod_process
from tools.testbed.redis import is_installed, redis_server
from tools.testbed.target import PodTarget, signed_text, signed_texts

SOON_S = 30.0
YEAR_S = 360 * 24 * 3600
HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")

SECRETS = {name: name * 32 for name in ("a", "b", "c")}
KEY = "k" * 32


@pytest.fixture(scope="module")
def limited() -> Iterator[PodProcess]:
    """Three items a year for each client; every test has clients of its own."""
    clients = ",".join(f"{name}:{secret}" for name, secret in SECRETS.items())
    settings = {"RATE_LIMIT_ITEMS": "3/year", "EMBEDDING_HMAC_CLIENTS": clients, "API_KEYS": f"shop:{KEY}"}
    with pod_process(settings) as process:
        yield process


def ask(pod: PodProcess, secret: str = SECRET) -> requests.Response:
    return requests.post(pod.base_url + EMBED_TEXT, json=signed_text("a red circle", secret=secret), timeout=SOON_S)


def numbers(answer: requests.Response) -> tuple[int, int]:
    """Limit and remaining; the third depends on the day."""
    limit, remaining, reset_s = (int(answer.headers[name]) for name in HEADERS)
    assert YEAR_S <= reset_s <= 2 * YEAR_S
    return limit, remaining


def test_headers_count_down_to_a_refusal(limited: PodProcess) -> None:
    """Each answer says what is left; the one that is one too many is a 429 that says when to come again."""
    answers = [ask(limited) for _ in range(4)]
    refused = answers[-1]

    assert [200, 200, 200, 429] == [answer.status_code for answer in answers]
    assert [(3, 2), (3, 1), (3, 0), (3, 0)] == [numbers(answer) for answer in answers]
    error = refused.json()["error"]
    assert ("RATE_LIMITED", True) == (error["code"], error["retryable"])
    assert 1 <= int(refused.headers["Retry-After"]) <= int(refused.headers["RateLimit-Reset"])
    assert refused.headers["X-Request-ID"] == error["request_id"]


def test_of_three_clients_only_the_greedy_one_is_refused(limited: PodProcess) -> None:
    """All at once: what it asks for too much is refused, and all that the others ask is answered."""
    asked = [SECRETS["a"]] * 12 + [SECRETS["b"], SECRETS["c"]] * 3

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda secret: (secret, ask(limited, secret).status_code), asked))

    assert [200] * 3 + [429] * 9 == sorted(status for secret, status in answers if secret == SECRETS["a"])
    assert {200} == {status for secret, status in answers if secret != SECRETS["a"]}


def test_openai_clients_are_refused_in_their_shape(limited: PodProcess) -> None:
    """Inputs count as items, for the key's name."""
    url, headers = limited.base_url + EMBEDDINGS, {"Authorization": f"Bearer {KEY}"}
    body = {"input": ["a red circle", "a blue square"]}
    first, second = (requests.post(url, json=body, headers=headers, timeout=SOON_S) for _ in range(2))

    assert (200, (3, 1)) == (first.status_code, numbers(first))
    assert (429, (3, 1)) == (second.status_code, numbers(second))
    assert "rate_limit_error" == second.json()["error"]["type"]
    assert "Retry-After" in second.headers


def test_strangers_and_health_are_not_counted(limited: PodProcess) -> None:
    """Who has not signed learns nothing of anybody's limit."""
    unsigned = requests.post(limited.base_url + EMBED_TEXT, json={"text": "a"}, timeout=SOON_S)
    health = requests.get(limited.base_url + "/health", timeout=SOON_S)

    assert (401, 200) == (unsigned.status_code, health.status_code)
    assert [] == [name for name in HEADERS for answer in (unsigned, health) if name in answer.headers]


def test_batch_that_can_never_fit_is_told_so(limited: PodProcess) -> None:
    """More items in one request than the whole limit."""
    body = json.dumps(signed_texts(["a", "b", "c", "d"])).encode()
    answer = PodTarget(limited.base_url).post(EMBED_TEXT_BATCH, body)

    assert 429 == answer.status_code
    assert answer.json()["error"]["message"].startswith("4 items in one request never fit")
    assert str(YEAR_S) == answer.headers["Retry-After"]
    assert "3" == answer.headers["RateLimit-Limit"]


def test_without_limits_there_are_no_headers(pod: PodProcess) -> None:
    """Nothing is counted."""
    answer = ask(pod)

    assert (200, []) == (answer.status_code, [name for name in HEADERS if name in answer.headers])


def test_jobs_are_counted_too() -> None:
    """On serverless the error is the job's; the second of two texts is one too many."""
    with control_plane() as plane, handler_process(plane.worker_environment() | {"RATE_LIMIT_ITEMS": "1/year"}):
        first, second = (plane.run({"path": EMBED_TEXT, **signed_text("a red circle")}) for _ in range(2))

    assert ("COMPLETED", "FAILED") == (first["status"], second["status"])
    assert "RATE_LIMITED" == json.loads(second["error"])["code"]


def test_redis_that_drips_holds_nobody_up() -> None:
    """As store of the limits and as cache: it is away, though each byte of its answers comes in time."""
    with answering(Drip(b":" + b"0" * 10_000, gap_s=0.05)) as address:
        settings = {"RATE_LIMIT_ITEMS": "1000/year", "RATE_LIMIT_STORAGE": address, "CACHE_URL": address}
        with pod_process(settings) as pod:
            answers = [ask(pod) for _ in range(3)]
            pod.wait_for_log("the limits' store is away")
            pod.wait_for_log("the shared cache is away")

    assert [200] * 3 == [answer.status_code for answer in answers]


def test_redis_restarts_under_requests_and_none_is_lost() -> None:
    """While it is away everybody is let in, without numbers; the log says that it went and that it came back."""
    if not is_installed():
        pytest.skip("there is no redis-server: `make redis` installs it")
    done = threading.Event()
    answers: list[requests.Response] = []

    def keep_asking() -> None:
        while not done.is_set():
            answers.append(ask(pod))

    with redis_server() as redis:
        settings = {"RATE_LIMIT_ITEMS": "1000000/year", "RATE_LIMIT_STORAGE": redis.url}
        with pod_process(settings) as pod, ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(keep_asking) for _ in range(4)]
            try:
                redis.stop()
                pod.wait_for_log("the limits' store is away")
                redis.start()
                pod.wait_for_log("the limits' store is back")
            finally:
                done.set()
            for one in asking:
                one.result(SOON_S)
        after = [answer for answer in answers if "RateLimit-Limit" in answer.headers]

    assert {200} == {answer.status_code for answer in answers}
    assert 0 < len(after) < len(answers)
