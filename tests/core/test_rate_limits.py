"""What a client may ask for, in memory and over a real Redis; and what an outage of that Redis does to requests."""

import logging
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import cast

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from limits.storage import RedisStorage

from core.access import Access, Credentials
from core.api import Api, Call
from core.batching.items import Modality
from core.build import require_usable
from core.byte_budget import ByteBudget
from core.deadline import Deadline
from core.embedder import Embedder, WantedText
from core.embedding import Embedding
from core.errors import RateLimited, StartError
from core.images.content import SentImages, SentLimits
from core.operations import Model
from core.outages import ASK_AGAIN_S, Outages
from core.rate_limits import (
    Limit,
    RateLimits,
    Store,
    WhenAway,
    Window,
    build_rate_limits,
    open_store,
    parse_rate,
)
from core.settings import load_settings
from core.standing import Standing
from core.wire.openai import EMBEDDINGS, EmbeddingsRequest
from core.wire.requests import ImageBatchRequest, ImageRequest, Request, TextBatchRequest, TextRequest, validate
from core.wire.responses import ModelIdentity
from shared_auth import Authenticator
from shared_auth.contract import EMBED_TEXT_BATCH
from tests.core.no_redis import NO_REDIS, Drip, Flood, answering
from tests.logs import records_of
from tools.testbed.redis import Redis, is_installed, redis_server
from tools.testbed.target import signed_text

AWAY, BACK = "the limits' store is away", "the limits' store is back"

SENT_LIMITS = SentLimits(1000, ByteBudget(1_000_000))
IDENTITY = ModelIdentity("scripted", "none", "cpu", "float32", "scripted", 2, "0" * 16, "scripted")

# So long that no test sees the end of one.
YEAR_S = 360 * 24 * 3600

# Seconds that leave a hanging test time to fail.
NET_S = 60.0


Opened = Callable[..., Store]
"""(address, timeout_s) -> its store."""


class ScriptedClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[Redis]:
    """For tests that leave it running, each with clients of its own."""
    _require_redis()
    with redis_server() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[Redis]:
    """For a test that ends it or pauses it."""
    _require_redis()
    with redis_server() as server:
        yield server


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens stores, whose connections end with the test: those of one that nothing closes are the collector's, which
    may find them in any other test. A slow machine is no outage.
    """
    with ExitStack() as stack:

        def open_one(address: str, timeout_s: float = NET_S) -> Store:
            store = open_store(address, timeout_s=timeout_s)
            if isinstance(store, RedisStorage):
                stack.callback(store.storage.connection_pool.disconnect)
            return store

        yield open_one


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, opened: Opened) -> Store:
    """Both stores in turn: the suite says the same of each."""
    if request.param == "memory":
        return open_store("memory://")
    server: Redis = request.getfixturevalue("shared_redis")
    # A database of its own for each test would be one of sixteen: an empty one is as good.
    empty = opened(server.url)
    empty.reset()
    return empty


def _require_redis() -> None:
    if not is_installed():
        pytest.skip("there is no redis-server: `make redis` installs it")


def limits(
    store: Store,
    *,
    items: int | None = None,
    bytes_: int | None = None,
    when_away: WhenAway = "open",
    clock: ScriptedClock | None = None,
) -> RateLimits:
    """So much in a year."""
    rates: list[Limit] = []
    if items is not None:
        rates.append(Limit("items", parse_rate(f"{items}/year")))
    if bytes_ is not None:
        rates.append(Limit("bytes", parse_rate(f"{bytes_}/year")))
    return RateLimits(rates, store, when_away=when_away, outages=Outages(clock or ScriptedClock()))


def passes(checked: RateLimits, client: str, items: int, bytes_: int = 1) -> bool:
    try:
        checked.check(client, items, bytes_)
    except RateLimited:
        return False
    return True


def refusal(checked: RateLimits, client: str, items: int, bytes_: int = 1) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        checked.check(client, items, bytes_)
    return caught.value


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in records_of(caplog, "core.rate_limits")]


def test_one_client_over_its_limit_does_not_touch_the_others(store: Store) -> None:
    """Of three clients one asks for too much: it alone is refused."""
    checked = limits(store, items=3)
    asked = ["greedy", "calm", "greedy", "greedy", "greedy", "calm", "greedy", "late"]

    let_in = [passes(checked, client, 1) for client in asked]

    assert [True, True, True, True, False, True, False, True] == let_in


def test_a_refused_request_costs_nothing(store: Store) -> None:
    """What did not fit leaves the room there was to what does."""
    checked = limits(store, items=10)

    assert [True, False, False, True] == [passes(checked, "a", items) for items in (8, 3, 3, 2)]


def test_what_one_limit_refuses_the_other_does_not_count(store: Store) -> None:
    """Neither are items spent on a request that has too many bytes, nor bytes on one of too many items."""
    checked = limits(store, items=10, bytes_=100)
    requests = [(1, 90), (5, 20), (9, 5), (1, 5), (0, 5)]

    assert [True, False, True, False, True] == [passes(checked, "a", *request) for request in requests]


def test_standing_is_that_of_the_scarcest_limit(store: Store) -> None:
    """The one of which the smallest share is left; `reset_s` is when nothing of this window counts any more."""
    checked = limits(store, items=10, bytes_=100)

    first = checked.check("a", 2, 10)
    second = checked.check("a", 1, 80)

    assert first is not None
    assert second is not None
    assert (10, 8) == (first.limit, first.remaining)
    assert (100, 10) == (second.limit, second.remaining)
    assert YEAR_S < second.reset_s <= 2 * YEAR_S


def test_refusal_says_which_limit_and_when(store: Store) -> None:
    """The message names limit and unit; `standing` is that limit's, and there is room before all is there again."""
    checked = limits(store, items=1000, bytes_=100)
    checked.check("a", 1, 70)

    error = refusal(checked, "a", 1, 40)

    assert error.message.startswith("over this client's limit of 100 bytes per 1 year: there is room in ")
    assert error.standing is not None
    assert Standing(100, 30, error.standing.reset_s) == error.standing
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s < error.standing.reset_s


def test_what_can_never_fit_is_told_so(store: Store) -> None:
    """Waiting does not help who asks for more at once than the whole limit, and nothing is counted for it."""
    checked = limits(store, items=5)

    error = refusal(checked, "a", 6)

    message = "6 items in one request never fit this client's limit of 5 items per 1 year: ask for less at once"
    assert (message, YEAR_S) == (error.message, error.retry_after_s)
    assert error.standing is not None
    assert (5, 5) == (error.standing.limit, error.standing.remaining)
    assert passes(checked, "a", 5)


def test_threads_take_exactly_the_limit(store: Store) -> None:
    """However many ask at once, neither more nor less is let in."""
    checked = limits(store, items=100, bytes_=100_000)

    with ThreadPoolExecutor(8) as threads:
        let_in = list(threads.map(lambda _: passes(checked, "a", 1), range(160), timeout=NET_S))

    assert 100 == sum(let_in)


def test_nobody_is_refused_for_what_is_about_to_be_given_back() -> None:
    """In memory, taking of both limits and giving back is one step: a refused request is in nobody's way."""
    requests = [(400, 400), (2, 1)] * 100
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            checked = limits(open_store("memory://"), items=500, bytes_=1000)
            checked.check("a", 1, 700)
            with ThreadPoolExecutor(8) as threads:
                let_in = list(threads.map(lambda cost: passes(checked, "a", *cost), requests, timeout=NET_S))  # noqa: B023

            assert [False, True] * 100 == let_in
    finally:
        sys.setswitchinterval(before_s)


def test_two_services_share_the_limit(shared_redis: Redis, opened: Opened) -> None:
    """What one has let in, the other one counts."""
    one, other = (limits(opened(shared_redis.url), items=4) for _ in range(2))

    let_in = [passes(checked, "shared", 1) for checked in (one, other, one, other, one, other)]

    assert [True, True, True, True, False, False] == let_in


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 12), st.integers(1, 120)), max_size=30))
def test_any_requests_are_let_in_exactly_while_they_fit(requests: list[tuple[str, int, int]]) -> None:
    """Within one window: what was let in never exceeds a limit, and what fits is never refused."""
    checked = limits(open_store("memory://"), items=10, bytes_=100)
    left = {"a": (10, 100), "b": (10, 100)}

    for client, items, bytes_ in requests:
        fits = items <= left[client][0] and bytes_ <= left[client][1]
        if fits:
            left[client] = (left[client][0] - items, left[client][1] - bytes_)

        assert fits == passes(checked, client, items, bytes_)


def later(window: Window, seconds: int) -> Window:
    """What the library counts then, if nothing is asked for in between."""
    if seconds < window.ends_s:
        return Window(window.length_s, window.previous, window.current, window.ends_s - seconds)
    ends_s = window.ends_s + window.length_s - seconds
    return Window(window.length_s, window.current if ends_s > 0 else 0, 0, max(0, ends_s))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    length_s = draw(st.integers(1, 100))
    return Window(length_s, draw(st.integers(0, 50)), draw(st.integers(0, 50)), draw(st.integers(1, length_s)))


@given(windows(), st.integers(1, 50), st.integers(1, 50))
def test_there_is_room_when_it_was_promised_and_not_before(window: Window, cost: int, limit: int) -> None:
    """Retry-After is the first whole second at which the same request fits."""
    assume(cost <= limit and window.used + cost > limit)

    promised_s = window.room_in_s(cost, limit)

    assert later(window, promised_s).used + cost <= limit
    assert later(window, promised_s - 1).used + cost > limit


@given(windows())
def test_nothing_counts_after_the_reset(window: Window) -> None:
    """RateLimit-Reset is when the whole limit is there again."""
    assert 0 == later(window, window.empty_in_s()).used


def test_outage_lets_everybody_in_and_is_told_once(
    redis: Redis, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """A Redis that ends and comes back in the middle: every request is let in, and the log has one line for each."""
    clock = ScriptedClock()
    checked = limits(opened(redis.url), items=100, clock=clock)
    before = checked.check("a", 1, 1)

    redis.stop()
    during = []
    for _ in range(5):
        during.append(checked.check("a", 1, 1))
        clock.now_s += ASK_AGAIN_S / 2
    redis.start()
    clock.now_s += ASK_AGAIN_S
    after = [checked.check("a", 1, 1) for _ in range(3)]

    assert before is not None
    assert [None] * 5 == during
    # It keeps nothing on disk: the limits begin anew.
    assert [99, 98, 97] == [standing and standing.remaining for standing in after]
    assert [AWAY, BACK] == said(caplog)
    away, _ = records_of(caplog, "core.rate_limits")
    assert (logging.WARNING, "open") == (away.levelno, vars(away)["when_away"])


def test_restart_between_two_requests_is_not_noticed(
    redis: Redis, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that has ended meanwhile is replaced, and counts as no outage."""
    checked = limits(opened(redis.url), items=100)
    checked.check("a", 1, 1)

    redis.stop()
    redis.start()

    assert checked.check("a", 1, 1) is not None
    assert [] == said(caplog)


def test_outage_lets_nothing_in_that_never_fits(redis: Redis, opened: Opened) -> None:
    """Nobody need count for that."""
    checked = limits(opened(redis.url), items=5, clock=ScriptedClock())

    redis.stop()
    refused = [refusal(checked, "a", 6) for _ in range(3)]

    assert [("6 items in one request never fit", Standing(5, 0, YEAR_S))] * 3 == [
        (error.message.partition(" this client")[0], error.standing) for error in refused
    ]


def test_closed_lets_nobody_in_while_the_store_is_away(redis: Redis, opened: Opened) -> None:
    """RATE_LIMITED, and who asks again is let in once it is back."""
    clock = ScriptedClock()
    checked = limits(opened(redis.url), items=100, when_away="closed", clock=clock)

    redis.stop()
    refused = [refusal(checked, "a", 1) for _ in range(3)]
    redis.start()
    clock.now_s += ASK_AGAIN_S

    assert [("the limits' store is away", 1)] * 3 == [(error.message, error.retry_after_s) for error in refused]
    assert [Standing(100, 0, YEAR_S)] * 3 == [error.standing for error in refused]
    assert passes(checked, "a", 1)


@pytest.mark.parametrize("answer", NO_REDIS.values(), ids=NO_REDIS)
def test_store_that_is_no_redis_is_away(answer: bytes, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """Everybody is let in, nothing fails, and the log has one line."""
    with answering(lambda connection: connection.sendall(answer)) as address:
        checked = limits(opened(address, 0.5), items=100, clock=ScriptedClock())
        standings = [checked.check("a", 1, 1) for _ in range(5)]

    assert [None] * 5 == standings
    assert [AWAY] == said(caplog)


def test_store_whose_name_is_none_is_away(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """Known when it is first asked."""
    checked = limits(opened("redis://redis..svc"), items=100, clock=ScriptedClock())

    assert [None] * 3 == [checked.check("a", 1, 1) for _ in range(3)]
    assert [AWAY] == said(caplog)


@pytest.mark.parametrize("make", [lambda: Drip(b":" + b"0" * 1000, gap_s=0.05), Flood], ids=["drips", "without an end"])
def test_answer_of_a_store_has_an_end(
    make: Callable[[], Drip | Flood], opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """In time, though each byte comes in time, and in length."""
    answer = make()
    with answering(answer) as address:
        checked = limits(opened(address, 0.5), items=100, clock=ScriptedClock())
        standing = checked.check("a", 1, 1)
        sent = answer.sent

    assert standing is None
    assert sent < 1000 or isinstance(answer, Flood)
    assert sent < 50_000_000
    assert [AWAY] == said(caplog)


def test_store_that_hangs_holds_no_requests(redis: Redis, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """It takes connections and answers none: a request gives up, and the next ones do not even ask."""
    clock = ScriptedClock()
    checked = limits(opened(redis.url, 2.0), items=100, clock=clock)

    redis.pause()
    with ThreadPoolExecutor(8) as threads:
        during = list(threads.map(lambda _: checked.check("a", 1, 1), range(40), timeout=NET_S))
    redis.resume()
    clock.now_s += ASK_AGAIN_S

    assert [None] * 40 == during
    assert checked.check("a", 1, 1) is not None
    assert [AWAY, BACK] == said(caplog)


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [
        pytest.param("600/minute", 600, 60, id="per minute"),
        pytest.param("5 per 2 hours", 5, 7200, id="words"),
        pytest.param("10/10seconds", 10, 10, id="ten seconds"),
    ],
)
def test_rates_as_they_are_written(text: str, amount: int, seconds: int) -> None:
    """An amount, and a time."""
    rate = parse_rate(text)

    assert (amount, seconds) == (rate.amount, rate.get_expiry())


@given(st.text() | st.from_regex(r"[0-9]{1,3} ?(/|per) ?[0-9]{0,2} ?(second|minute|month)s?([;,] ?1/day)?"))
def test_any_text_is_a_rate_over_0_or_refused(text: str) -> None:
    """Nothing is read as another rate than it says."""
    try:
        rate = parse_rate(text)
    except ValueError:
        return
    assert rate.amount >= 1
    assert rate.multiples >= 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        pytest.param("RATE_LIMIT_ITEMS", "many", id="items, words"),
        pytest.param("RATE_LIMIT_ITEMS", "0/minute", id="items, none"),
        pytest.param("RATE_LIMIT_ITEMS", "600", id="items, no time"),
        pytest.param("RATE_LIMIT_ITEMS", "600/fortnight", id="items, unknown time"),
        pytest.param("RATE_LIMIT_ITEMS", "600/0minutes", id="items, no minutes"),
        pytest.param("RATE_LIMIT_ITEMS", "10/second;600/minute", id="items, two rates"),
        pytest.param("RATE_LIMIT_BYTES", "-1/minute", id="bytes, negative"),
        pytest.param("RATE_LIMIT_STORAGE", "memcached://:hidden@localhost", id="another store"),
        pytest.param("RATE_LIMIT_STORAGE", "redis://:hidden@localhost:port", id="port"),
        pytest.param("RATE_LIMIT_WHEN_AWAY", "hidden", id="when away"),
    ],
)
def test_wrong_values_end_the_start(variable: str, value: str) -> None:
    """With one line that names the variable, and nothing of an address that may hold a password."""
    environ = {"EMBEDDING_HMAC_SECRET": "x" * 32, "RATE_LIMIT_ITEMS": "1/minute"}

    with pytest.raises(StartError, match=rf"^{variable}: [^\n]+$") as caught:
        require_usable(load_settings(environ | {variable: value}))

    assert "hidden" not in str(caught.value)


def test_settings_become_limits(shared_redis: Redis) -> None:
    """Each variable reaches the check."""
    settings = load_settings(
        {
            "EMBEDDING_HMAC_SECRET": "x" * 32,
            "RATE_LIMIT_ITEMS": "7/year",
            "RATE_LIMIT_BYTES": "70/year",
            "RATE_LIMIT_STORAGE": shared_redis.url,
            "RATE_LIMIT_WHEN_AWAY": "closed",
        }
    )
    require_usable(settings)

    scarce_items = build_rate_limits(settings).check("of settings", 2, 1)
    scarce_bytes = build_rate_limits(settings).check("of settings", 1, 60)

    assert [(7, 5), (70, 9)] == [(one.limit, one.remaining) for one in (scarce_items, scarce_bytes) if one is not None]


def test_library_keeps_what_was_promised(store: Store) -> None:
    """Whoever waits as long as Retry-After says is let in: the arithmetic here is that of the library's windows."""
    # Not over one second: in the very last millisecond of two windows Redis still has the count, but not its time.
    checked = RateLimits([Limit("items", parse_rate("4/2seconds"))], store, when_away="closed")
    refused: RateLimited | None = None
    while refused is None:
        try:
            checked.check("a", 3, 1)
        except RateLimited as error:
            refused = error
    assert refused.retry_after_s is not None

    time.sleep(refused.retry_after_s)

    assert passes(checked, "a", 3)


class AnswersTexts:
    """Stands where an embedder stands."""

    def __init__(self) -> None:
        self.embedded = 0

    def embed_texts(self, wanted: Sequence[WantedText], _deadline: Deadline) -> list[Embedding]:
        self.embedded += len(wanted)
        return [Embedding(np.zeros(2, np.float32), {"inference_ms": 1.0}) for _ in wanted]


def api(embedder: AnswersTexts, rate_limits: RateLimits) -> Api:
    access = Access(Authenticator(["x" * 32], clients={"other": "y" * 32}), {"by-key": "z" * 32})
    model = Model(cast("Embedder", embedder), IDENTITY, dict.fromkeys(Modality, 8))
    return Api(model, access, sent_limits=SENT_LIMITS, request_timeout_s=30.0, rate_limits=rate_limits)


def text_call(service: Api, secret: str, texts: Sequence[str]) -> Call:
    return service.prepare(
        EMBED_TEXT_BATCH,
        {
            "items": [
                signed_text(text, path=EMBED_TEXT_BATCH, secret=secret, request_id=str(position))
                for position, text in enumerate(texts)
            ]
        },
        request_id="one",
    )


def test_services_over_one_redis_refuse_before_they_embed(shared_redis: Redis, opened: Opened) -> None:
    """Each signer has its own limit, over all services; the model never sees what is refused."""
    shared = opened(shared_redis.url)
    shared.reset()
    embedder = AnswersTexts()
    one, other = (api(embedder, limits(opened(shared_redis.url), items=5)) for _ in range(2))

    text_call(one, "x" * 32, ["a", "b", "c"]).run()
    over = text_call(other, "x" * 32, ["d", "e", "f"])
    with pytest.raises(RateLimited):
        over.run()
    within = text_call(other, "y" * 32, ["g", "h", "i"])
    within.run()

    assert 6 == embedder.embedded
    assert [2, 2] == [call.standing.remaining for call in (over, within) if call.standing is not None]


def test_holder_of_a_key_is_a_client_like_a_signer() -> None:
    """`/v1/embeddings` counts its inputs for the key's name."""
    service = api(AnswersTexts(), limits(open_store("memory://"), items=5))
    members = {"input": ["a", "b", "c"]}
    key = Credentials("Bearer " + "z" * 32)
    calls = [service.prepare(EMBEDDINGS, members, request_id="one", credentials=key) for _ in range(2)]

    calls[0].run()
    with pytest.raises(RateLimited):
        calls[1].run()
    text_call(service, "x" * 32, ["a", "b", "c"]).run()


def test_preparing_a_call_asks_no_store(redis: Redis, opened: Opened) -> None:
    """`prepare` may run where nothing may block; only `run` asks, and notices that nobody is there."""
    service = api(AnswersTexts(), limits(opened(redis.url), items=5, when_away="closed"))
    redis.stop()

    call = text_call(service, "x" * 32, ["a"])

    with pytest.raises(RateLimited):
        call.run()


@pytest.mark.parametrize(
    ("kind", "members", "measured"),
    [
        pytest.param(ImageRequest, {"image_url": "http://a/é"}, (1, 11), id="URL"),
        pytest.param(TextRequest, {"text": "né"}, (1, 3), id="text"),
        pytest.param(
            ImageBatchRequest,
            {"items": [{"image_url": "http://a/", "request_id": str(position)} for position in range(3)]},
            (3, 27),
            id="images in a batch",
        ),
        pytest.param(
            TextBatchRequest,
            {"items": [{"text": text, "request_id": text} for text in ("a", "bc")]},
            (2, 3),
            id="texts in a batch",
        ),
        pytest.param(ImageRequest, {"image_b64": b64encode(b"12345").decode()}, (1, 5), id="content"),
        pytest.param(ImageRequest, {"image_b64": "no base64"}, (1, 0), id="no base64"),
        pytest.param(EmbeddingsRequest, {"input": "abc"}, (1, 3), id="OpenAI, one text"),
        pytest.param(
            EmbeddingsRequest,
            {"input": ["abc", {"image_url": "http://a/"}, {"image_b64": b64encode(b"12345").decode()}]},
            (3, 17),
            id="OpenAI, of each kind",
        ),
    ],
)
def test_what_a_request_counts(kind: type[Request], members: dict[str, object], measured: tuple[int, int]) -> None:
    """Items, and the bytes of what was sent of them."""
    assert measured == validate(kind, members, SentImages(SENT_LIMITS)).measure()


@given(st.binary(min_size=1, max_size=100))
def test_content_counts_decoded(content: bytes) -> None:
    """The bytes of the file, not those of its base64."""
    inputs = [{"image_b64": b64encode(content).decode()}]

    assert (1, len(content)) == validate(EmbeddingsRequest, {"input": inputs}, SentImages(SENT_LIMITS)).measure()
