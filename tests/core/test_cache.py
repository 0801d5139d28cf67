"""What is kept of rows, for how long, and who waits for whom."""

import gc
import threading
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batching.items import Encoded, Group, Item, Modality, outcomes
from core.cache import ENTRY_BYTES, Cache, Counts
from core.deadline import Deadline
from core.errors import DeadlineExceeded, InternalError, InvalidImage

SOON_S = 30.0
DIM = 4
ROW_BYTES = ENTRY_BYTES + DIM * 4


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
    return cache.settle_known(item(), cache.key(Modality.TEXT, b"%d" % number))


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


def test_bound_is_of_real_bytes() -> None:
    """A hundred thousand different rows: what is counted is at least what is taken, and both stay below the bound."""
    max_bytes = 10_000_000
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        cache = a_cache(max_bytes)
        for number in range(100_000):
            put(cache, number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert max_bytes - ROW_BYTES < cache.used_bytes <= max_bytes
    assert after - before <= max_bytes
    assert has(cache, 99_999)
    assert not has(cache, 0)
    cache.close()


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
    cache.settle_known(second, key)

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
    assert cache.settle_known(item(Modality.IMAGE), after)
    assert not cache.settle_known(item(Modality.IMAGE), before)
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
