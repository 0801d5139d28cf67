"""Dynamic batching: items of all requests share forward passes, on one thread per device.

No artificial delay: a free device takes what is queued, up to the maximum; while it works, items gather. Knows
neither torch nor the network; an engine and a way to stack items are given to it.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from core.batching.device import Device, Stack
from core.batching.items import Encoded, Item, Modality, Payload
from core.batching.tally import Tally, total
from core.batching.turns import Turns
from core.clip.engine import Engine, EngineBroken
from core.deadline import Deadline
from core.errors import NotReady, Overloaded

__all__ = ["Batcher", "Encoded", "Modality"]

logger = logging.getLogger(__name__)


class Batcher:
    """Owns the device threads. `submit` from any thread; results come back as futures.

    `stack` makes one array of a list of payloads, by modality. `max_items` bounds what is queued, which bounds its
    bytes too: a payload is at most one preprocessed image. `turns` are those of decoder and device where they share
    cores. `out_of_memory` is what an engine raises when a batch is too large for it.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        stack: Mapping[Modality, Stack],
        *,
        dim: int,
        max_batch: int,
        max_items: int,
        turns: Turns | None = None,
        prepare_thread: Callable[[], None] = lambda: None,
        out_of_memory: tuple[type[Exception], ...] = (MemoryError,),
    ) -> None:
        self._max_items = max_items
        self._turns = turns or Turns(shared=False)
        self._prepare_thread = prepare_thread
        self._queues: dict[Modality, deque[Item]] = {modality: deque() for modality in Modality}
        self._changed = threading.Condition()
        self._closed = False
        self._broken = False
        self._devices = [
            Device(engine, stack, dim=dim, max_batch=max_batch, out_of_memory=out_of_memory) for engine in engines
        ]
        self._threads = [
            threading.Thread(target=self._serve, args=(device,), name=f"device-{device.name}", daemon=True)
            for device in self._devices
        ]
        for thread in self._threads:
            thread.start()

    @property
    def healthy(self) -> bool:
        """Whether every device thread still serves."""
        return not self._broken and all(thread.is_alive() for thread in self._threads)

    def pass_serials(self) -> tuple[int | None, ...]:
        """For each device the number of the forward pass that runs there, or None."""
        return tuple(device.pass_serial for device in self._devices)

    @property
    def queued_items(self) -> int:
        """Images and texts that wait for a device."""
        return sum(map(len, self._queues.values()))

    @property
    def done(self) -> Mapping[Modality, Tally]:
        """What all devices together have done."""
        return total(device.done for device in self._devices)

    def submit(self, modality: Modality, payloads: Sequence[Payload], deadline: Deadline) -> list["Future[Encoded]"]:
        """Queue all payloads at once and return one future per payload, in order.

        Raises `Overloaded` if they do not all fit, `NotReady` when closed or broken. A future holds `Encoded` or
        one of `InferenceFailed`, `DeadlineExceeded`, `NotReady`.
        """
        items = [Item(payload, deadline) for payload in payloads]
        with self._changed:
            if self._closed or self._broken:
                raise NotReady
            if self.queued_items + len(items) > self._max_items:
                raise Overloaded
            self._queues[modality].extend(items)
            self._changed.notify()
        self._turns.look_again()
        return [item.future for item in items]

    def fail(self) -> None:
        """Take nothing more and answer what is queued and what is running with `NotReady`, for good.

        For a device that is lost, or that does not come back from a forward pass: its thread is left to itself.
        """
        with self._changed:
            self._broken = True
            for device in self._devices:
                for item in device.running:
                    item.fail(NotReady())
            self._fail_queued()
            self._changed.notify_all()
        self._turns.end()

    def close(self) -> None:
        """Stop after the batches that are running; what is still queued fails with `NotReady`."""
        with self._changed:
            self._closed = True
            self._fail_queued()
            self._changed.notify_all()
        self._turns.end()
        for thread in self._threads:
            # The thread of a broken device may never come back.
            if not self._broken:
                thread.join()

    def _serve(self, device: Device) -> None:
        self._prepare_thread()
        while (is_full := self._wait_for_work(device)) is not None:
            with self._turns.computing(is_full):
                modality = self._take(device)
                if modality is None:
                    continue
                try:
                    device.run(modality, device.running)
                except EngineBroken as error:
                    logger.critical("the device is lost", extra={"cause": str(error.__cause__ or error)[:300]})
                    self.fail()
                    return

    def _wait_for_work(self, device: Device) -> Callable[[], bool] | None:
        """Return what tells whether the next pass need not wait for images that are being decoded; None at the end.

        Not when a text waits: its pass is short, and somebody is searching.
        """
        with self._changed:
            device.running = ()
            while self._longest_waiting() is None:
                if self._closed or self._broken:
                    return None
                self._changed.wait()
            images, texts = self._queues[Modality.IMAGE], self._queues[Modality.TEXT]
            limit = device.limit(Modality.IMAGE)
            return lambda: len(images) >= limit or len(texts) > 0

    def _take(self, device: Device) -> Modality | None:
        """Put up to a batch of work into `device.running`, the longest waiting modality's; None if there is none."""
        with self._changed:
            while (modality := self._longest_waiting()) is not None:
                queue = self._queues[modality]
                batch = [queue.popleft() for _ in range(min(device.limit(modality), len(queue)))]
                device.running = [item for item in batch if item.still_wanted()]
                if device.running:
                    return modality
            return None

    def _longest_waiting(self) -> Modality | None:
        waiting = [modality for modality in Modality if self._queues[modality]]
        return min(waiting, key=lambda waiter: self._queues[waiter][0].queued_at_s, default=None)

    def _fail_queued(self) -> None:
        for queue in self._queues.values():
            for item in queue:
                item.fail(NotReady())
            queue.clear()
