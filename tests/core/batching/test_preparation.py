"""A batcher is there when its devices are ready, and is not when one of them cannot be."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core.batching.batcher import Batcher
from core.batching.device import Device
from core.batching.items import Group, Item, Modality
from core.batching.scheduler import Limits, Scheduler
from core.deadline import Deadline
from core.errors import NotReady, StartError
from tests.core.batching.harness import DIM, SOON_S, ScriptedEngine


def scheduler() -> Scheduler:
    limits = Limits(max_items=8, max_batch=8, max_tokens=8, max_turn_s=1.0)
    return Scheduler(limits, shared=False, decoders=1, grant=lambda _item: None)


def device(prepare: Callable[[], None]) -> Device:
    return Device(
        ScriptedEngine(),
        dict.fromkeys(Modality, np.stack),
        dim=DIM,
        max_batch=8,
        prepare_thread=prepare,
    )


def test_every_device_is_prepared_on_its_own_thread_first() -> None:
    """Graphs are captured then, and nothing else may run on a device meanwhile."""
    threads, gate = set[int](), threading.Event()

    def prepare() -> None:
        threads.add(threading.get_ident())
        gate.wait(SOON_S)

    with ThreadPoolExecutor(1) as maker:
        made = maker.submit(Batcher, scheduler(), [device(prepare) for _ in range(2)])
        # However long: it is not there while a device is not ready.
        with pytest.raises(TimeoutError):
            made.result(0.1)
        gate.set()
        made.result(SOON_S).close()

    assert 2 == len(threads - {threading.get_ident()})


def test_device_that_cannot_be_prepared_ends_the_start_with_its_reason() -> None:
    """At once: a thread that dies without a word would leave the first item waiting for minutes."""

    def fail() -> None:
        raise StartError("no room for graphs")

    plan, item = scheduler(), Item(Modality.TEXT, Group(Deadline.after(SOON_S)), np.zeros(1))
    with pytest.raises(StartError, match=r"\Ano room for graphs\Z"):
        Batcher(plan, [device(lambda: None), device(fail)])

    with pytest.raises(NotReady), plan.entered([item]):
        pass
