"""The scheduler driven by hand, on a clock that only the test moves: turns, shares, and what leaves the queues."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batching.items import Encoded, Group, Item, Modality
from core.batching.scheduler import Limits, Pass, Scheduler
from core.deadline import Deadline
from core.errors import InvalidImage, NotReady, Overloaded

SOON_S = 30.0
MAX_BATCH = 8
MAX_TURN_S = 0.15


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Device:
    def limit(self, _modality: Modality) -> int:
        return MAX_BATCH


@dataclass
class Bench:
    """A scheduler, what it has granted, and items that hold their places."""

    shared: bool = True
    decoders: int = 2
    max_items: int = 1000
    clock: Clock = field(default_factory=Clock)
    granted: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = Limits(max_items=self.max_items, max_batch=MAX_BATCH, max_tokens=10_000, max_turn_s=MAX_TURN_S)
        self.scheduler = Scheduler(
            limits, shared=self.shared, decoders=self.decoders, grant=self.granted.append, clock=self.clock
        )
        self.device = Device()
        self._requests: list[AbstractContextManager[None]] = []

    def items(self, count: int, modality: Modality = Modality.IMAGE) -> list[Item]:
        group = Group(Deadline.after(SOON_S))
        items = [Item(modality, group, None, width=12 if modality is Modality.TEXT else 1) for _ in range(count)]
        request = self.scheduler.entered(items)
        request.__enter__()
        self._requests.append(request)
        return items

    def text(self) -> Item:
        [item] = self.items(1, Modality.TEXT)
        self.scheduler.add_texts([item])
        return item

    def begins(self) -> Pass | None:
        return self.scheduler.pass_if_possible(self.device)

    def run(self, taken: Pass, seconds: float) -> None:
        self.clock.now_s += seconds
        for item in taken.items:
            item.settle(Encoded(None, 1.0, 0.0, 0.0))  # type: ignore[arg-type]
        self.scheduler.finished(taken, seconds)


def test_images_are_decoded_oldest_first_and_enter_one_pass() -> None:
    """As many at once as there are decoders; the pass waits until all are decoded."""
    bench = Bench(decoders=2)
    images = bench.items(3)
    bench.scheduler.add_fetched(images)
    first_grants = list(bench.granted)
    early = bench.begins()
    bench.scheduler.add_decoded(images[:2])
    bench.scheduler.add_decoded(images[2:])
    taken = bench.begins()

    assert images[:2] == first_grants
    assert images == bench.granted
    assert early is None
    assert taken is not None
    assert images == list(taken.items)


def test_older_requests_go_first_whenever_their_images_arrive() -> None:
    """A request that waited for a slow host is not behind those that came after it."""
    bench = Bench(decoders=1)
    [old], [young] = bench.items(1), bench.items(1)
    old.group.arrived_s, young.group.arrived_s = 1.0, 2.0
    bench.scheduler.add_decoded([young])
    bench.scheduler.add_decoded([old])
    taken = bench.begins()

    assert taken is not None
    assert [old, young] == list(taken.items)


def test_decoding_that_failed_holds_no_pass() -> None:
    """Nor does one that begins again elsewhere."""
    bench = Bench()
    good, broken = bench.items(2)
    bench.scheduler.add_fetched([good, broken])
    bench.scheduler.add_decoded([good])
    waits = bench.begins()
    broken.settle(InvalidImage())
    bench.scheduler.withdraw([broken])
    taken = bench.begins()

    assert waits is None
    assert taken is not None
    assert [good] == list(taken.items)


def test_decoders_go_on_after_the_pass() -> None:
    """What was fetched while a pass ran is decoded when it ends."""
    bench = Bench()
    first, second = bench.items(1), bench.items(1)
    bench.scheduler.add_decoded(first)
    taken = bench.begins()
    bench.scheduler.add_fetched(second)
    during = list(bench.granted)
    assert taken is not None
    bench.run(taken, 0.1)

    assert [] == during
    assert second == bench.granted


def test_search_does_not_wait_for_a_batch_that_came_before_it() -> None:
    """Texts of one request are due one after the other; whoever comes meanwhile is taken in between."""
    bench = Bench()
    batch = bench.items(4 * MAX_BATCH, Modality.TEXT)
    bench.scheduler.add_texts(batch)
    first = bench.begins()
    assert first is not None
    search = bench.text()
    bench.run(first, 0.1)
    second = bench.begins()

    assert batch[:MAX_BATCH] == list(first.items)
    assert second is not None
    assert search in second.items
    assert MAX_BATCH == len(second.items)


def test_searches_do_not_hold_up_a_batch_for_ever() -> None:
    """What comes later passes only texts whose time has not come."""
    bench = Bench()
    batch = bench.items(10, Modality.TEXT)
    bench.scheduler.add_texts(batch)
    passes = 0
    while any(item.outcome is None for item in batch):
        for _ in range(MAX_BATCH):
            bench.text()
        taken = bench.begins()
        assert taken is not None
        bench.run(taken, 0.1)
        passes += 1

    assert passes <= 4


def test_texts_of_a_batch_go_by_width() -> None:
    """Those that are padded alike share a pass, in whichever order they stand in the request."""
    bench = Bench()
    batch = bench.items(4, Modality.TEXT)
    for item, width in zip(batch, (77, 8, 77, 8), strict=True):
        item.width = width
    bench.scheduler.add_texts(batch)
    first = bench.begins()
    assert first is not None
    bench.run(first, 0.1)
    second = bench.begins()

    assert [8, 8] == [item.width for item in first.items]
    assert second is not None
    assert [77, 77] == [item.width for item in second.items]


def test_images_that_need_no_turn_are_never_granted() -> None:
    """On a device of its own decoders serve themselves."""
    bench = Bench(shared=False)
    images = bench.items(2)
    bench.scheduler.add_decoded(images)
    taken = bench.begins()

    assert taken is not None
    assert images == list(taken.items)
    assert [] == bench.granted


def test_what_ends_early_leaves_its_queue() -> None:
    """A request that ends before its passes frees its places in every queue, also among the decodes."""
    bench = Bench(decoders=1, max_items=4)
    with bench.scheduler.entered(doomed := [Item(Modality.IMAGE, Group(Deadline.after(SOON_S)), None) for _ in "abc"]):
        bench.scheduler.add_fetched(doomed[:2])
        bench.scheduler.add_decoded(doomed[2:])
        text = bench.text()
    waiting = bench.scheduler.waiting_items
    taken = bench.begins()

    assert 1 == waiting
    assert taken is not None
    assert [text] == list(taken.items)
    assert 3 == len(bench.items(3))


def test_decode_that_is_still_awaited_leaves_with_its_request() -> None:
    """A row that is found elsewhere answers an image while it is decoded: its decoder's turn is not lost for good."""
    bench = Bench(decoders=1)
    found, other = Item(Modality.IMAGE, Group(Deadline.after(SOON_S)), None), bench.items(1)
    with bench.scheduler.entered([found]):
        bench.scheduler.add_fetched([found])
        bench.scheduler.add_fetched(other)
        found.settle(Encoded(None, 1.0, 0.0, 0.0))  # type: ignore[arg-type]
        before = list(bench.granted)

    assert [found] == before
    assert [found, *other] == bench.granted


def test_full_house_is_overloaded_at_once() -> None:
    """Whatever state its images are in, being downloaded included."""
    bench = Bench(max_items=3)
    bench.items(2)

    with pytest.raises(Overloaded):
        bench.items(2)


def test_closing_answers_what_is_being_downloaded_too() -> None:
    """Nobody would ever tell them; what runs is let finish, unless it is given up as well."""
    bench = Bench()
    downloading, running = bench.items(1), bench.items(1)
    bench.scheduler.add_decoded(running)
    taken = bench.begins()
    bench.scheduler.close()
    at_first = [downloading[0].outcome, running[0].outcome]
    bench.scheduler.close(at_once=True)

    assert taken is not None
    assert [NotReady, type(None)] == [type(outcome) for outcome in at_first]
    assert isinstance(running[0].outcome, NotReady)
    with pytest.raises(NotReady):
        bench.items(1)
    assert bench.scheduler.next_pass(bench.device) is None


@dataclass
class Load:
    """A simulated CPU with images that never run out, and text clients that ask again as soon as they are answered."""

    image_s: float
    text_s: float
    decode_s: float
    bench: Bench = field(default_factory=Bench)
    used_s: dict[Modality, float] = field(default_factory=lambda: dict.fromkeys(Modality, 0.0))
    longest_wait_s: float = 0.0

    def run(self, passes: int, text_clients: int) -> None:
        """Until so many passes have run; only what comes after the first ten counts, when the pace is known."""
        for _ in range(text_clients):
            self.bench.text()
        for number in range(passes):
            if number == 10:
                self.used_s = dict.fromkeys(Modality, 0.0)
                self.longest_wait_s = 0.0
            self._one_pass()

    def _one_pass(self) -> None:
        bench, began_s = self.bench, self.bench.clock.now_s
        while True:
            if bench.scheduler.waiting_items + len(bench.granted) < 2 * MAX_BATCH + 64:
                bench.scheduler.add_fetched(bench.items(MAX_BATCH))
            taken = bench.begins()
            if taken is not None:
                break
            assert bench.granted, "nothing can go on"
            decoded, bench.granted[:] = list(bench.granted), []
            bench.clock.now_s += self.decode_s
            bench.scheduler.add_decoded(decoded)
        waited_since_s = min((item.ready_s for item in taken.items), default=began_s)
        item_s = self.text_s if taken.modality is Modality.TEXT else self.image_s
        bench.run(taken, item_s * len(taken.items))
        self.used_s[taken.modality] += bench.clock.now_s - began_s
        if taken.modality is Modality.TEXT:
            self.longest_wait_s = max(self.longest_wait_s, bench.clock.now_s - waited_since_s)
            for _ in taken.items:
                bench.text()


@settings(max_examples=40)
@given(
    image_s=st.sampled_from([0.001, 0.01, 0.05]),
    text_s=st.sampled_from([0.001, 0.002, 0.006]),
    decode_s=st.sampled_from([0.0, 0.002, 0.01]),
    text_clients=st.sampled_from([1, 4, 16, 64]),
)
def test_neither_kind_starves_the_other(image_s: float, text_s: float, decode_s: float, text_clients: int) -> None:
    """Images have a third of the time however many texts come back at once, and a text never waits for more than a
    turn of the images, one of the texts and its own.
    """
    load = Load(image_s, text_s, decode_s)
    load.run(60, text_clients)
    share = load.used_s[Modality.IMAGE] / sum(load.used_s.values())
    turn_s = max(MAX_TURN_S, decode_s + image_s) + 2 * decode_s

    assert share >= 1 / 3
    # Where all texts together fit into a pass; else they wait for each other.
    if text_clients <= MAX_BATCH and text_clients * text_s <= min(MAX_TURN_S, 2 * MAX_BATCH * image_s):
        assert load.longest_wait_s <= 3 * turn_s


def test_what_waits_has_a_time() -> None:
    """Images by what one took lately, texts by their padded tokens; nothing is known before the first passes."""
    bench = Bench(shared=False)
    unknown = bench.items(1)
    bench.scheduler.add_decoded(unknown)
    before_s = bench.scheduler.waiting_s
    images = bench.begins()
    assert images is not None
    bench.run(images, 0.5)
    bench.text()
    texts = bench.begins()
    assert texts is not None
    bench.run(texts, 0.24)
    bench.scheduler.add_decoded(bench.items(3))
    bench.text()

    assert 0.0 == before_s
    # Three images of half a second, twelve tokens of a fiftieth.
    assert pytest.approx(3 * 0.5 + 12 * 0.02) == bench.scheduler.waiting_s
