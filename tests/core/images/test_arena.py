"""The memory that both sides share: slots, what is being decoded, and who has which slot."""

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.images.arena import Arena, Decoding, FreeSlots


def both_sides(slots: int = 3) -> tuple[Arena, Arena]:
    descriptor = Arena.create(size_px=2, slots=slots)
    sides = Arena(descriptor, size_px=2, slots=slots), Arena(descriptor, size_px=2, slots=slots)
    os.close(descriptor)
    return sides


def test_pixels_of_one_side_are_the_others() -> None:
    """Each slot is its own, and stays when the descriptor is closed."""
    ours, theirs = both_sides()
    for slot in range(3):
        theirs.slots[slot] = slot + 1

    assert (3, 3, 2, 2) == ours.slots.shape
    assert [1, 2, 3] == [int(np.unique(ours.slots[slot]).item()) for slot in range(3)]


def test_other_side_sees_what_is_decoded() -> None:
    """From the begin to the end of a decode, with the processor time of its begin; the slots are not touched."""
    ours, theirs = both_sides()
    seen = [ours.decoding]
    theirs.note_decoding(7, 123_456_789_000)
    seen.append(ours.decoding)
    theirs.note_idle()
    seen.append(ours.decoding)

    assert [None, Decoding(7, 123_456_789_000), None] == seen
    assert not ours.slots.any()


def test_descriptor_is_not_inherited() -> None:
    """A process that is started beside gets none of it unless it is passed on."""
    descriptor = Arena.create(size_px=2, slots=1)
    try:
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@given(st.integers(1, 6), st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
def test_no_slot_is_given_twice(slots: int, takes: list[bool], random: object) -> None:
    """As many as there are, each to one holder; the lowest free one first, so that few pages are ever written."""
    free, held = FreeSlots(slots), set[int]()
    for take in takes:
        if take:
            slot = free.take()
            expected = min(set(range(slots)) - held, default=None)
            assert expected == slot
            if slot is not None:
                held.add(slot)
        elif held:
            slot = random.choice(sorted(held))  # type: ignore[attr-defined]
            held.remove(slot)
            free.give_back(slot)
