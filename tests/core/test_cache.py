"""What is kept of rows, for how long, and who waits for whom."""

import gc
import threading
import tracemalloc
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batching.items import Encoded, Group, Item, Modality, outcomes
from core.cache import ENTRY_BYTES, Cache, Counts, Key
from core.deadline import Cancellation, Deadline
from core.errors import DeadlineExceeded, InternalError, InvalidImage

SOON_S = 30.0
DIM = 4
ROW_BYTES = ENTRY_BYTES + DIM * 4
# Of `core.lookups`.
LOOKUP_THREADS = 4


def item(modality: Modality = Modality.TEXT) -> Item:
    return Item(modality, Group(Deadline.after(SOON_S)), None)


def row(value: float = 1.0) -> Encoded:
    """A part of its pass, as a device gives it."""
    whole = np.full((8, DIM), value, dtype=np.float32)
    return Encoded(whole[3], float(np.linalg.norm(whole[3])), 1.0, 2.0)


def a_cache(max_bytes: int = 1_000_000) -> Cache:
    return Cache(max_bytes, model="scripted")


class Computes:
    """What has to be computed, in order; `comes` says that there is something."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.comes = threading.Semaphore(0)

    def __call__(self, items: Sequence[Item]) -> None:
        self.items += items
        self.comes.release()


def put(cache: Cache, number: int) -> None:
    """One row, of a key of its own."""
    cache.claim([(one := item(), cache.key(Modality.TEXT, b"%d" % number))], lambda _: None)
    one.settle(row(number + 1.0))


def has(cache: Cache, number: int) -> bool:
    return knows(cache, cache.key(Modality.TEXT, b"%d" % number))


def knows(cache: Cache, key: bytes, modality: Modality = Modality.TEXT) -> bool:
    cache.settle_known([(asked := item(modality), key)])
    return asked.outcome is not None


def vector(one: Item) -> bytes:
    assert isinstance(one.outcome, Encoded)
    return one.outcome.vector.tobytes()


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5))
def test_least_recently_used_rows_go_first(asked: list[int], places: int) -> None:
    """As a plain list would have it; and never more bytes than are allowed."""
    cache = a_cache(places * ROW_BYTES)
    kept: list[int] = []
    for number in asked:
        assert (number in kept) == has(cache, number)
        if number not in kept:
            put(cache, number)
        kept = [*(one for one in kept if one != number), number][-places:]

        assert len(kept) * ROW_BYTES == cache.used_bytes
    cache.close()


def counted_and_taken(max_bytes: int) -> tuple[int, int]:
    """Bytes of a cache after twenty thousand different rows, as it says and as the interpreter does."""
    gc.collect()
    tracemalloc.start()
    cache = a_cache(max_bytes)
    for number in range(20_000):
        put(cache, number)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    assert has(cache, 19_999)
    assert not has(cache, 0)
    cache.close()
    return cache.used_bytes, taken


def test_bound_is_of_real_bytes() -> None:
    """What is counted is at least what is taken, and both stay below the bound."""
    max_bytes = 2_000_000
    # Of its own: threads that other tests have left take memory too.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        counted, taken = process.submit(counted_and_taken, max_bytes).result()

    assert max_bytes - ROW_BYTES < counted <= max_bytes
    assert taken <= max_bytes


def test_row_that_is_larger_than_everything_is_not_kept() -> None:
    """Nor does it take anything with it for good: the next one finds its place."""
    cache = a_cache(ROW_BYTES - 1)
    put(cache, 1)

    assert not has(cache, 1)
    assert 0 == cache.used_bytes
    cache.close()


def test_rows_are_of_their_model_and_kind() -> None:
    """The same bytes as a text, as an image, or for another model are something else."""
    caches = [Cache(1000, model=model) for model in ("a|torch|float32", "a|torch|float16")]
    keys = {cache.key(modality, b"x") for cache in caches for modality in Modality}

    assert 4 == len(keys)


def test_what_is_kept_is_a_copy() -> None:
    """Not a view that keeps a whole pass in memory; nobody can change it, and it is the same bit for bit."""
    cache = a_cache()
    key = cache.key(Modality.TEXT, b"x")
    first, second = item(), item()
    cache.claim([(first, key)], lambda _: None)
    first.settle(row(0.1))
    cache.settle_known([(second, key)])

    assert isinstance(second.outcome, Encoded)
    assert second.outcome.vector.base is None
    assert not second.outcome.vector.flags.writeable
    assert vector(first) == vector(second)
    assert (False, True) == (isinstance(first.outcome, Encoded) and first.outcome.cached, second.outcome.cached)
    cache.close()


def test_whoever_asks_meanwhile_gets_the_same_row() -> None:
    """Once it is there; one of many is computed, whatever else is asked for with it."""
    cache, computes = a_cache(), Computes()
    keys = [cache.key(Modality.TEXT, name) for name in (b"x", b"y")]
    items = [item() for _ in range(4)]
    cache.claim([(items[0], keys[0])], computes)
    cache.claim([(items[1], keys[0]), (items[2], keys[1]), (items[3], keys[0])], computes)
    before = [one.outcome for one in items]
    items[0].settle(row())

    assert [items[0], items[2]] == computes.items
    assert [None] * 4 == before
    assert [True, True] == [isinstance(one.outcome, Encoded) and one.outcome.cached for one in (items[1], items[3])]
    assert items[2].outcome is None
    assert Counts(hits=2, misses=2) == cache.counts[Modality.TEXT]
    cache.close()


@pytest.mark.parametrize("error", [pytest.param(InvalidImage(), id="bad"), pytest.param(DeadlineExceeded(), id="late")])
def test_when_the_first_fails_the_others_try_by_themselves(error: InvalidImage | DeadlineExceeded) -> None:
    """Each of them, once; nothing of it is kept, and the next one who asks is a first one again."""
    cache, computes = a_cache(), Computes()
    key = cache.key(Modality.IMAGE, b"x")
    items = [item(Modality.IMAGE) for _ in range(4)]
    for one in items[:3]:
        cache.claim([(one, key)], computes)
    items[0].settle(error)
    for _ in range(3):
        assert computes.comes.acquire(timeout=SOON_S)
    cache.claim([(items[3], key)], computes)

    assert items == computes.items
    assert [None, None, None] == [one.outcome for one in items[1:]]
    assert Counts(hits=0, misses=4) == cache.counts[Modality.IMAGE]
    cache.close()


def test_first_one_that_was_settled_before_holds_nobody_up() -> None:
    """Its time was over when its file came: who asks for the same is computed."""
    cache, computes = a_cache(), Computes()
    key = cache.key(Modality.IMAGE, b"x")
    late, next_one = item(Modality.IMAGE), item(Modality.IMAGE)
    late.settle(DeadlineExceeded())
    cache.claim([(late, key)], computes)
    cache.claim([(next_one, key)], computes)

    assert [late, next_one] == computes.items
    cache.close()


def test_one_that_begins_again_still_goes_first() -> None:
    """Its process has ended: it waits for nobody, least of all for itself."""
    cache, computes = a_cache(), Computes()
    key = cache.key(Modality.IMAGE, b"x")
    first, second = item(Modality.IMAGE), item(Modality.IMAGE)
    for one in (first, second, first, second):
        cache.claim([(one, key)], computes)
    first.settle(row())

    assert [first, first] == computes.items
    assert isinstance(second.outcome, Encoded)
    cache.close()


def test_one_that_is_put_off_is_not_waited_for() -> None:
    """Of those who did one is computed, and the rest have its row; the one that comes back may be of another file."""
    cache, computes = a_cache(), Computes()
    before, after = image_keys(cache, b"x", b"y")
    first, *others = items = [item(Modality.IMAGE) for _ in range(4)]
    for one in items:
        cache.claim([(one, before)], computes)
    cache.put_off([first])
    for _ in range(2):
        assert computes.comes.acquire(timeout=SOON_S)
    cache.claim([(first, after)], computes)
    first.settle(row(0.2))
    between = [one.outcome for one in others]
    _seen_to(cache)
    others[0].settle(row(0.1))

    assert [first, others[0], first] == computes.items
    assert [None] * 3 == between
    assert [vector(others[0])] * 2 == [as_found(one) for one in others[1:]]
    assert [row(0.1).vector.tobytes(), row(0.2).vector.tobytes()] == [kept(cache, key) for key in (before, after)]
    cache.close()


def test_those_who_are_put_off_together_are_not_computed_for_each_other() -> None:
    """They were in one process: none of them has a file any more, and each is claimed when it has one."""
    cache, computes = a_cache(), Computes()
    [key] = image_keys(cache, b"x")
    first, gone, other = items = [item(Modality.IMAGE) for _ in range(3)]
    cache.claim([(one, key) for one in items], computes)
    cache.put_off([first, gone])
    for _ in range(2):
        assert computes.comes.acquire(timeout=SOON_S)
    cache.claim([(gone, key)], computes)
    other.settle(row(0.1))
    cache.claim([(first, key)], computes)

    assert [first, other] == computes.items
    assert [vector(other)] * 2 == [as_found(one) for one in (gone, first)]
    cache.close()


def test_one_that_waited_and_is_put_off_is_not_computed() -> None:
    """Neither when the first one fails afterwards, nor when it has failed a moment before."""
    cache, computes = a_cache(), Computes()
    keys = image_keys(cache, b"x", b"y")
    firsts, early, late = ([item(Modality.IMAGE) for _ in range(2)] for _ in range(3))
    opened = threading.Event()
    cache.claim(list(zip(firsts, keys, strict=True)), lambda _: None)
    cache.claim([(early[0], keys[0])], lambda _: opened.wait(SOON_S))
    cache.claim([(late[0], keys[0]), (late[1], keys[1]), (early[1], keys[1])], computes)
    firsts[0].settle(InvalidImage())
    cache.put_off(late)
    firsts[1].settle(InvalidImage())
    opened.set()
    assert computes.comes.acquire(timeout=SOON_S)

    assert [early[1]] == computes.items
    cache.close()


def test_one_that_was_left_twice_is_computed_for_the_file_that_it_has_now() -> None:
    """What was about to be done for it when it was put off is not done for it any more, whatever it waits for since."""
    cache, computes = a_cache(), Computes()
    before, after = image_keys(cache, b"x", b"y")
    first, other, moved, busy, behind = (item(Modality.IMAGE) for _ in range(5))
    opened = threading.Event()
    [busy_key] = image_keys(cache, b"z")
    cache.claim([(busy, busy_key)], lambda _: None)
    cache.claim([(behind, busy_key)], lambda _: opened.wait(SOON_S))
    busy.settle(InvalidImage())
    cache.claim([(first, before), (moved, before)], computes)
    cache.put_off([first])
    cache.put_off([moved])
    cache.claim([(other, after), (moved, after)], computes)
    other.settle(InvalidImage())
    opened.set()
    _seen_to(cache)

    moved.settle(row())
    assert 1 == computes.items.count(moved)
    assert not knows(cache, before, Modality.IMAGE)
    cache.close()


def _seen_to(cache: Cache) -> None:
    """All who were left by now."""
    [key] = image_keys(cache, b"nobody's")
    first, last, computes = item(Modality.IMAGE), item(Modality.IMAGE), Computes()
    cache.claim([(first, key), (last, key)], computes)
    first.settle(InvalidImage())
    for _ in range(2):
        assert computes.comes.acquire(timeout=SOON_S)


def kept(cache: Cache, key: Key) -> bytes:
    cache.settle_known([(asked := item(Modality.IMAGE), key)])
    return as_found(asked)


def test_row_is_kept_for_the_file_that_it_was_made_of() -> None:
    """An address gave another file the second time: who waits for the first one is not given the second one's row."""
    cache, computes = a_cache(), Computes()
    before, after = (cache.key(Modality.IMAGE, name) for name in (b"x", b"y"))
    first, waits = item(Modality.IMAGE), item(Modality.IMAGE)
    cache.claim([(first, before)], computes)
    cache.claim([(waits, before)], computes)
    cache.claim([(first, after)], computes)
    for _ in range(3):
        assert computes.comes.acquire(timeout=SOON_S)
    first.settle(row())

    assert [first, first, waits] == computes.items or [first, waits, first] == computes.items
    assert waits.outcome is None
    assert knows(cache, after, Modality.IMAGE)
    assert not knows(cache, before, Modality.IMAGE)
    cache.close()


def test_what_fails_a_second_time_is_answered() -> None:
    """A bug of ours on the way is that item's error, and the next one is tried."""
    cache, computes = a_cache(), Computes()
    key = cache.key(Modality.TEXT, b"x")
    first, second, third = item(), item(), item()
    cache.claim([(first, key)], computes)
    cache.claim([(second, key)], _raise)
    cache.claim([(third, key)], computes)
    first.settle(InvalidImage())
    for _ in range(2):
        assert computes.comes.acquire(timeout=SOON_S)

    assert [first, third] == computes.items
    assert isinstance(outcomes(second.group, [second])[0], InternalError)
    cache.close()


def _raise(_items: Sequence[Item]) -> None:
    raise ZeroDivisionError


class ScriptedShared:
    """A `core.cache.Shared` in memory. While it is held, lookups wait: `asked` says that one has come."""

    def __init__(self) -> None:
        self.rows: dict[Key, Encoded] = {}
        self.lookups: list[list[Key]] = []
        self.asked = threading.Semaphore(0)
        self.opened = threading.Event()
        self.opened.set()

    def hold(self) -> None:
        self.opened.clear()

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Encoded]:
        self.lookups.append(list(keys))
        self.asked.release()
        assert self.opened.wait(SOON_S)
        return {key: self.rows[key] for key in keys if key in self.rows}

    def put(self, key: Key, row: Encoded) -> None:
        self.rows[key] = row


def over(shared: ScriptedShared) -> Cache:
    return Cache(1_000_000, model="scripted", shared=shared)


def as_found(one: Item) -> bytes:
    assert isinstance(one.outcome, Encoded)
    assert one.outcome.cached
    return one.outcome.vector.tobytes()


def image_keys(cache: Cache, *names: bytes) -> list[Key]:
    return [cache.key(Modality.IMAGE, name) for name in names]


def test_what_is_shared_is_looked_up_once_and_not_computed() -> None:
    """All that memory does not have in one question; what was found is in memory from then on."""
    shared, computes = ScriptedShared(), Computes()
    one, other = over(shared), over(shared)
    keys = image_keys(one, b"x", b"y", b"z")
    firsts = [item(Modality.IMAGE) for _ in keys]
    one.claim(list(zip(firsts[:2], keys, strict=False)), computes)
    for number, first in enumerate(firsts[:2]):
        first.settle(row(number + 0.1))
    shared.lookups.clear()
    asked = [item(Modality.IMAGE) for _ in range(5)]
    other.claim(list(zip(asked, [*keys, keys[0], keys[2]], strict=True)), computes)
    after = [knows(other, key, Modality.IMAGE) for key in keys[:2]]

    assert [*firsts[:2], asked[2]] == computes.items
    assert [keys] == shared.lookups
    assert [vector(first) for first in (firsts[0], firsts[1], firsts[0])] == [as_found(asked[at]) for at in (0, 1, 3)]
    assert [None, None] == [asked[2].outcome, asked[4].outcome]
    assert [True, True] == after
    assert Counts(hits=5, misses=1) == other.counts[Modality.IMAGE]
    for cache in (one, other):
        cache.close()


def test_what_is_known_elsewhere_is_settled_without_a_claim() -> None:
    """An image that was sent is looked up before it is handed to a process; of those in memory nothing is asked."""
    shared = ScriptedShared()
    cache = over(shared)
    keys = image_keys(cache, b"x", b"y")
    shared.rows[keys[0]] = row(0.1)
    asked = [item(Modality.IMAGE) for _ in range(3)]
    cache.settle_known([(asked[0], keys[0]), (asked[1], keys[1])])
    cache.settle_known([(asked[2], keys[0])])

    assert [True, False, True] == [one.outcome is not None for one in asked]
    assert [keys] == shared.lookups
    assert ROW_BYTES == cache.used_bytes
    cache.close()


def test_row_is_shared_after_everybody_is_answered() -> None:
    """Whoever waits does not wait for that, and an error is not shared."""
    settled: list[bool] = []

    class Looks(ScriptedShared):
        def put(self, key: Key, row: Encoded) -> None:
            super().put(key, row)
            settled.extend(one.outcome is not None for one in items)

    shared, items = Looks(), [item() for _ in range(3)]
    cache = over(shared)
    key, failing = (cache.key(Modality.TEXT, name) for name in (b"x", b"y"))
    cache.claim([(items[0], key), (items[1], key), (items[2], failing)], lambda _: None)
    items[2].settle(InvalidImage())
    items[0].settle(row(0.1))

    assert [True, True, True] == settled
    assert {key: vector(items[0])} == {name: kept.vector.tobytes() for name, kept in shared.rows.items()}
    cache.close()


def test_thread_that_may_not_block_goes_on_meanwhile() -> None:
    """It claims, and claims others, while the lookup of the first is under way; then that is computed, or settled."""
    shared, computes = ScriptedShared(), Computes()
    cache = over(shared)
    known, found, missing = image_keys(cache, b"known", b"found", b"missing")
    cache.claim([(first := item(Modality.IMAGE), known)], lambda _: None)
    first.settle(row())
    shared.rows[found] = row(0.1)
    shared.hold()
    held, late, quick = (item(Modality.IMAGE) for _ in range(3))
    cache.claim([(held, found), (late, missing)], computes, may_block=False)
    cache.claim([(quick, known)], computes, may_block=False)
    meanwhile = [one.outcome is not None for one in (held, late, quick)]
    shared.opened.set()
    assert computes.comes.acquire(timeout=SOON_S)

    assert [False, False, True] == meanwhile
    assert vector(held) == row(0.1).vector.tobytes()
    assert [late] == computes.items
    cache.close()


def test_one_that_begins_again_during_its_lookup_is_computed_once() -> None:
    """By its second claim: its first process, and what that had downloaded, has gone."""
    shared, computes = ScriptedShared(), Computes()
    cache = over(shared)
    [key] = image_keys(cache, b"x")
    one = item(Modality.IMAGE)
    shared.hold()
    cache.claim([(one, key)], _raise, may_block=False)
    assert shared.asked.acquire(timeout=SOON_S)
    cache.put_off([one])
    cache.claim([(one, key)], computes, may_block=False)
    assert shared.asked.acquire(timeout=SOON_S)
    shared.opened.set()
    assert computes.comes.acquire(timeout=SOON_S)
    cache.close()

    assert [one] == computes.items
    assert one.outcome is None
    assert [[key], [key]] == shared.lookups


@pytest.mark.parametrize("is_there", [pytest.param(True, id="found"), pytest.param(False, id="missing")])
def test_who_waits_for_a_lookup_of_one_that_begins_again_has_one_of_its_own(*, is_there: bool) -> None:
    """It is settled or computed by that; what the first lookup finds is nothing to it."""
    shared, computes = ScriptedShared(), Computes()
    cache = over(shared)
    [key] = image_keys(cache, b"x")
    first, waits = item(Modality.IMAGE), item(Modality.IMAGE)
    shared.hold()
    cache.claim([(first, key)], _raise, may_block=False)
    assert shared.asked.acquire(timeout=SOON_S)
    cache.claim([(waits, key)], computes, may_block=False)
    cache.put_off([first])
    assert shared.asked.acquire(timeout=SOON_S)
    if is_there:
        shared.rows[key] = row(0.1)
    shared.opened.set()
    if not is_there:
        assert computes.comes.acquire(timeout=SOON_S)
    cache.close()

    assert [is_there] * 2 == [isinstance(one.outcome, Encoded) for one in (waits, first)]
    assert ([] if is_there else [waits]) == computes.items


def test_row_that_is_found_too_late_is_not_that_of_another_file() -> None:
    """An address gave another file meanwhile: what was found for the first one settles those who wait for it alone."""
    shared, computes = ScriptedShared(), Computes()
    cache = over(shared)
    before, after = image_keys(cache, b"x", b"y")
    shared.rows[before] = row(0.1)
    moved, other = item(Modality.IMAGE), item(Modality.IMAGE)
    shared.hold()
    cache.claim([(moved, before)], computes, may_block=False)
    assert shared.asked.acquire(timeout=SOON_S)
    cache.put_off([moved])
    cache.claim([(moved, after)], computes, may_block=False)
    assert shared.asked.acquire(timeout=SOON_S)
    shared.opened.set()
    assert computes.comes.acquire(timeout=SOON_S)
    cache.close()
    moved.settle(row(0.7))
    cache.settle_known([(other, after)])

    assert [moved] == computes.items
    assert vector(moved) == vector(other) == row(0.7).vector.tobytes()
    assert knows(cache, before, Modality.IMAGE)


def test_row_that_is_found_while_it_is_computed_is_kept_once() -> None:
    """Another pod was quicker, and somebody else here has found its row: it takes the place of one."""
    shared = ScriptedShared()
    cache = over(shared)
    [key] = image_keys(cache, b"x")
    cache.claim([(first := item(Modality.IMAGE), key)], lambda _: None)
    shared.rows[key] = row(0.1)
    found = knows(cache, key, Modality.IMAGE)
    first.settle(row(0.1))

    assert found
    assert ROW_BYTES == cache.used_bytes
    cache.close()


def test_row_that_was_found_is_not_kept_for_another_file() -> None:
    """Found for what an address gave first, it may settle an item that is claimed for another file by then."""
    shared, computes = ScriptedShared(), Computes()
    cache = over(shared)
    [key] = image_keys(cache, b"y")
    first, waits = item(Modality.IMAGE), item(Modality.IMAGE)
    cache.claim([(first, key), (waits, key)], computes)
    first.settle(replace(row(0.1), cached=True))
    for _ in range(2):
        assert computes.comes.acquire(timeout=SOON_S)

    assert [first, waits] == computes.items
    assert ({}, 0) == (shared.rows, cache.used_bytes)
    cache.close()


def stuck(shared: ScriptedShared, cache: Cache) -> None:
    """Every thread that looks up waits for an answer."""
    shared.hold()
    for number in range(LOOKUP_THREADS):
        [key] = image_keys(cache, b"stuck %d" % number)
        cache.claim([(item(Modality.IMAGE), key)], Computes(), may_block=False)
        assert shared.asked.acquire(timeout=SOON_S)


def test_what_waits_for_a_lookup_is_asked_for_in_one_question() -> None:
    """However many have come one by one while the server was slow: whoever comes then waits for one answer."""
    shared = ScriptedShared()
    cache = over(shared)
    claims = [Computes() for _ in range(20)]
    keys = image_keys(cache, *(b"%d" % number for number in range(20)))
    shared.rows[keys[7]] = row(0.1)
    stuck(shared, cache)
    items = [item(Modality.IMAGE) for _ in keys]
    for one, key, computes in zip(items, keys, claims, strict=True):
        cache.claim([(one, key)], computes, may_block=False)
    shared.opened.set()
    for number, computes in enumerate(claims):
        assert number == 7 or computes.comes.acquire(timeout=SOON_S)
    cache.close()

    assert [keys] == shared.lookups[LOOKUP_THREADS:]
    assert [[one] for one in items[:7]] == [computes.items for computes in claims[:7]]
    assert vector(items[7]) == row(0.1).vector.tobytes()


def test_what_nobody_wants_any_more_is_not_looked_up() -> None:
    """Clients that leave leave no questions behind."""
    shared, computes = ScriptedShared(), Computes()
    cache = over(shared)
    gone, own = image_keys(cache, b"gone", b"own")
    stuck(shared, cache)
    cancellation = Cancellation()
    group = Group(Deadline.after(SOON_S, cancellation))
    leaves = Item(Modality.IMAGE, group, None)
    cache.claim([(leaves, gone)], _raise, may_block=False)
    cache.claim([(item(Modality.IMAGE), own)], computes, may_block=False)
    cancellation.cancel()
    shared.opened.set()
    assert computes.comes.acquire(timeout=SOON_S)
    cache.close()

    assert [[own]] == shared.lookups[LOOKUP_THREADS:]
    assert isinstance(leaves.outcome, DeadlineExceeded)


def test_failure_of_one_request_behind_a_lookup_is_its_own() -> None:
    """Others were asked for in the same question."""
    shared, computes = ScriptedShared(), Computes()
    cache = over(shared)
    failing, own = image_keys(cache, b"failing", b"own")
    stuck(shared, cache)
    fails, succeeds = item(Modality.IMAGE), item(Modality.IMAGE)
    cache.claim([(fails, failing)], _raise, may_block=False)
    cache.claim([(succeeds, own)], computes, may_block=False)
    shared.opened.set()
    assert computes.comes.acquire(timeout=SOON_S)
    cache.close()

    assert isinstance(fails.outcome, InternalError)
    assert ([succeeds], None) == (computes.items, succeeds.outcome)


def test_failure_behind_a_lookup_is_answered() -> None:
    """A bug of ours there is the error of those items, and leaves nobody waiting."""
    cache = over(ScriptedShared())
    [key] = image_keys(cache, b"x")
    cache.claim([(one := item(Modality.IMAGE), key)], _raise, may_block=False)

    assert isinstance(outcomes(one.group, [one])[0], InternalError)
    cache.close()
