"""Rows over a real Redis: what two caches share, and that no state of that server costs more than a computation."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis as Client

from core.batching.items import Encoded, Group, Item, Modality
from core.build import require_usable
from core.cache import Cache, Key
from core.cache_tier import EXPIRY_S, MAX_WAITING, SharedRows, open_shared_rows, pack, unpack
from core.deadline import Deadline
from core.errors import StartError
from core.outages import ASK_AGAIN_S, Outages
from core.settings import load_settings
from tests.core.no_redis import NO_REDIS, Drip, Flood, answering, listening
from tests.threads import threads_end
from tools.testbed.redis import Redis, is_installed, redis_server

AWAY, BACK = "the shared cache is away", "the shared cache is back"
REFUSES = "the shared cache refuses what it is asked"
NOT_WHOLE = "the shared cache has rows that are not whole: they are computed anew"
DIM = 4
KEY: Key = b"k" * 32

# Seconds that leave a hanging test time to fail; of a server that answers, no machine is too slow for it.
NET_S = 60.0


class ScriptedClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def redis() -> Iterator[Redis]:
    if not is_installed():
        pytest.skip("there is no redis-server: `make redis` installs it")
    with redis_server() as server:
        yield server


@contextmanager
def rows_of(
    address: str, *, timeout_s: float = NET_S, clock: ScriptedClock | None = None
) -> Iterator[tuple[SharedRows, Cache]]:
    """A pod's two tiers."""
    shared = open_shared_rows(address, dim=DIM, timeout_s=timeout_s, outages=Outages(clock or ScriptedClock()))
    with closing(shared), closing(Cache(1_000_000, model="scripted", shared=shared)) as cache:
        yield shared, cache


def row(value: float = 0.1) -> Encoded:
    vector = np.full(DIM, value, dtype=np.float32)
    return Encoded(vector, float(np.linalg.norm(vector)), 1.0, 2.0)


def ask(cache: Cache, *names: str) -> list[Encoded]:
    """One request; what has to be computed becomes its name's length."""
    items = [Item(Modality.TEXT, Group(Deadline.after(NET_S)), name) for name in names]

    def compute(left: Sequence[Item]) -> None:
        for item in left:
            item.settle(row(len(item.payload) + 0.1))

    cache.claim([(item, cache.key(Modality.TEXT, item.payload.encode())) for item in items], compute)
    return [cast(Encoded, item.outcome) for item in items]


def cached(rows: Sequence[Encoded]) -> list[bool]:
    return [one.cached for one in rows]


def bits(rows: Sequence[Encoded]) -> list[tuple[bytes, float]]:
    return [(one.vector.tobytes(), one.norm) for one in rows]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings; that it has been closed is none."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "core.cache_tier" and record.levelno >= logging.WARNING
    ]


def test_two_caches_share_rows(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """What one has computed the other one computes no more, bit for bit the same; and keeps it in memory."""
    with rows_of(redis.url) as (_, one):
        computed = ask(one, "a", "bb", "ccc")
    with rows_of(redis.url) as (shared, other):
        found = ask(other, "a", "bb", "ccc", "dddd")
        again = ask(other, "a", "bb", "ccc", "dddd")
        counts = shared.counts

    assert [False] * 3 == cached(computed)
    assert [True, True, True, False] == cached(found)
    assert [True] * 4 == cached(again)
    assert bits(computed) == bits(found[:3]) == bits(again[:3])
    assert (3, 0, 0) == (counts.found, counts.dropped, counts.corrupt)
    assert [] == said(caplog)


def test_rows_expire(redis: Redis) -> None:
    """Those of a model that is served no more go by themselves."""
    with rows_of(redis.url) as (_, cache):
        ask(cache, "a", "bb")
    with closing(Client.from_url(redis.url)) as client:
        left_s = [cast(int, client.ttl(name)) for name in client.scan_iter()]

    assert 2 == len(left_s)
    assert all(EXPIRY_S - NET_S < one <= EXPIRY_S for one in left_s)


def test_outage_is_a_miss_and_told_once(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Everything is computed while it is away, and what is computed after its return is shared again."""
    clock = ScriptedClock()
    with rows_of(redis.url, clock=clock) as (_, cache):
        redis.stop()
        during = []
        for number in range(6):
            during += ask(cache, f"text {number}")
            clock.now_s += ASK_AGAIN_S / 2
        redis.start()
        clock.now_s += ASK_AGAIN_S
        after = ask(cache, "back")
    with rows_of(redis.url) as (_, other):
        shared = ask(other, "text 0", "back")

    assert [False] * 7 == cached([*during, *after])
    assert [False, True] == cached(shared)
    assert [AWAY, BACK] == said(caplog)


def test_restart_between_two_requests_is_not_noticed(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that has ended meanwhile is replaced, and counts as no outage."""
    with rows_of(redis.url) as (shared, cache):
        ask(cache, "a")
        _wait_until(lambda: shared.counts.written == 1)
        redis.stop()
        redis.start()
        ask(cache, "b")

    assert [] == said(caplog)


def _wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + NET_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_server_that_hangs_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    """It takes connections and answers none: the first request gives up, the next ones do not ask, all are computed."""
    with listening() as (address, _), rows_of(address, timeout_s=0.25) as (shared, cache):
        rows = [one for number in range(40) for one in ask(cache, f"text {number}")]

    assert [False] * 40 == cached(rows)
    assert (0, 0, 40) == (shared.counts.found, shared.counts.written, shared.counts.dropped)
    assert [AWAY] == said(caplog)


@pytest.mark.parametrize("answer", NO_REDIS.values(), ids=NO_REDIS)
def test_what_is_no_redis_is_a_miss(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever answers there, nothing fails, and the log has a line."""
    with (
        answering(lambda connection: connection.sendall(answer)) as address,
        rows_of(address, timeout_s=0.5) as (_, cache),
    ):
        rows = ask(cache, "a", "bb")

    assert [False, False] == cached(rows)
    assert [] != said(caplog)


def test_answer_that_drips_costs_no_more_than_one_that_does_not_come(caplog: pytest.LogCaptureFixture) -> None:
    """The time is for the whole of it, though each byte is there in time."""
    drip = Drip(b"*1\r\n$1000\r\n" + bytes(1000), gap_s=0.05)
    with answering(drip) as address, rows_of(address, timeout_s=0.5) as (_, cache):
        rows = ask(cache, "a")
        sent = drip.sent

    assert [False] == cached(rows)
    assert sent < 1000
    assert [AWAY] == said(caplog)


def test_answer_without_an_end_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """No more of it than rows could have been."""
    flood = Flood(b"*1\r\n")
    with answering(flood) as address, rows_of(address, timeout_s=NET_S) as (_, cache):
        rows = ask(cache, "a")

    assert [False] == cached(rows)
    # The rest lies in the buffers of the kernel.
    assert flood.sent < 50_000_000
    assert [AWAY] == said(caplog)


def test_more_keys_than_a_question_has_are_asked_in_several(redis: Redis) -> None:
    """Each answer has its bound."""
    names = [f"text {number}" for number in range(600)]
    with rows_of(redis.url) as (_, one):
        ask(one, *names)
    with rows_of(redis.url) as (shared, other):
        rows = ask(other, *names)

    assert [True] * 600 == cached(rows)
    assert 600 == shared.counts.found


def test_rows_that_are_not_whole_are_computed(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Cut, changed, another's, no string at all: each is a miss; the log has one line, and the rest is found."""
    names = ["a", "bb", "ccc", "dddd", "eeeee"]
    with rows_of(redis.url) as (_, one):
        ask(one, *names)
    with closing(Client.from_url(redis.url)) as client, rows_of(redis.url) as (shared, other):
        places = [f"clip-embedding:row:1:{other.key(Modality.TEXT, name.encode()).hex()}" for name in names]
        values = [cast(bytes, client.get(place)) for place in places]
        client.set(places[0], values[0][:-1])
        client.set(places[1], values[1][:-1] + bytes([values[1][-1] ^ 1]))
        client.set(places[2], values[3])
        client.delete(places[3])
        client.rpush(places[3], "a list")
        rows = ask(other, *names)
        counts = shared.counts

    assert [False, False, False, False, True] == cached(rows)
    # A list is no value to the server either.
    assert (1, 3) == (counts.found, counts.corrupt)
    assert [NOT_WHOLE] == said(caplog)


def test_server_without_memory_is_no_outage(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """It refuses to write and still answers: what it has is found, and the log has one line."""
    with rows_of(redis.url) as (_, one):
        ask(one, "a")
    with closing(Client.from_url(redis.url)) as client:
        client.config_set("maxmemory", 1)
    with rows_of(redis.url) as (shared, other):
        rows = [*ask(other, "bb"), *ask(other, "ccc"), *ask(other, "a")]

    assert [False, False, True] == cached(rows)
    assert (0, 2) == (shared.counts.written, shared.counts.dropped)
    assert [REFUSES] == said(caplog)


def test_what_cannot_be_written_in_time_is_dropped(redis: Redis) -> None:
    """The queue is bounded: a server that hangs keeps the writer, and nobody else."""
    puts = 2 * MAX_WAITING
    with rows_of(redis.url) as (shared, _):
        redis.pause()
        for number in range(puts):
            shared.put(b"%032d" % number, row())
        redis.resume()
    counts = shared.counts

    assert puts == counts.written + counts.dropped
    assert MAX_WAITING <= counts.written < puts


def test_close_ends_threads_and_writes_what_waits(redis: Redis) -> None:
    """When it returns they are gone, and so are the connections; what comes afterwards is dropped."""
    with threads_end("cache"), rows_of(redis.url) as (shared, cache):
        ask(cache, *(f"text {number}" for number in range(300)))
    shared.put(KEY, row())
    with closing(Client.from_url(redis.url)) as client:
        # Its own one.
        _wait_until(lambda: len(cast(list[object], client.client_list())) == 1)

    assert (300, 1) == (shared.counts.written, shared.counts.dropped)


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(floats, min_size=DIM, max_size=DIM), st.floats())
def test_rows_come_back_bit_for_bit(numbers: list[float], norm: float) -> None:
    """Except for those that no device gives: what is not finite, or has no norm."""
    given_row = Encoded(np.array(numbers, dtype=np.float32), norm, 1.0, 2.0)
    found = unpack(KEY, pack(KEY, given_row), DIM)
    usable = math.isfinite(norm) and norm > 0 and all(math.isfinite(number) for number in numbers)

    assert usable == (found is not None)
    assert found is None or bits([given_row]) == bits([found])


@given(st.binary(max_size=80) | st.binary(min_size=32, max_size=32) | st.none() | st.text() | st.integers())
def test_any_value_is_a_row_or_a_miss(value: object) -> None:
    """Nobody who does not know the key makes a row by chance, and nothing raises."""
    assert unpack(KEY, value, DIM) is None


@given(st.integers(0, 8 * (16 + 4 * DIM) - 1))
def test_any_bit_that_is_wrong_is_a_miss(bit: int) -> None:
    """In the checksum, the norm or the numbers."""
    value = bytearray(pack(KEY, row()))
    value[bit // 8] ^= 1 << bit % 8

    assert unpack(KEY, bytes(value), DIM) is None


def test_row_is_that_of_its_key_and_its_dimension() -> None:
    """The whole value of another key, or of a model with more numbers, is a miss."""
    value = pack(KEY, row())

    assert unpack(b"o" * 32, value, DIM) is None
    assert unpack(KEY, value, DIM + 1) is None


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("redis://localhost", id="host"),
        pytest.param("redis://user:hidden@[::1]:6380/3?health_check_interval=10", id="everything"),
        pytest.param("rediss://cache.example:6380", id="TLS"),
        pytest.param("redis+unix:///run/redis.sock", id="socket"),
    ],
)
def test_addresses_that_can_be_read_start(address: str) -> None:
    """As RATE_LIMIT_STORAGE reads them; nothing is connected to yet."""
    require_usable(load_settings({"EMBEDDING_HMAC_SECRET": "x" * 32, "CACHE_URL": address}))


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("hidden", id="word"),
        pytest.param("memory://hidden", id="memory"),
        pytest.param("memcached://:hidden@localhost", id="another store"),
        pytest.param("unix:///hidden.sock", id="socket, misspelled"),
        pytest.param("redis://:hidden@localhost:port", id="port"),
        pytest.param("redis://:hidden@[::1", id="brackets"),
        pytest.param("redis://:hidden@localhost?no_such_option=1", id="unknown option"),
        pytest.param("redis://:hidden@localhost?protocol=9", id="unknown protocol"),
        pytest.param("redis://:hidden@localhost?connection_class=x", id="no class"),
    ],
)
def test_wrong_addresses_end_the_start(address: str) -> None:
    """With one line that names the variable, and nothing of an address that may hold a password."""
    settings = load_settings({"EMBEDDING_HMAC_SECRET": "x" * 32, "CACHE_URL": address})
    with pytest.raises(StartError, match=r"^CACHE_URL: [^\n]+$") as caught:
        require_usable(settings)

    assert "hidden" not in str(caught.value)
    assert "hidden" not in repr(settings)


def test_shared_rows_need_a_cache() -> None:
    """CACHE_BYTES=0 promises that nothing is kept: both at once end the start."""
    settings = load_settings({"EMBEDDING_HMAC_SECRET": "x" * 32, "CACHE_URL": "redis://localhost", "CACHE_BYTES": "0"})
    with pytest.raises(StartError, match=r"^CACHE_URL: CACHE_BYTES is 0"):
        require_usable(settings)


def test_address_does_not_say_what_values_are(redis: Redis) -> None:
    """Nor how long requests wait: what is set here holds, whatever options it has."""
    address = f"{redis.url}?decode_responses=1"
    with rows_of(address) as (_, one):
        ask(one, "a")
    with rows_of(address) as (_, other):
        rows = ask(other, "a")

    assert [True] == cached(rows)
