"""The device threads: each takes passes from the scheduler, one after the other, and runs them on its own device."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

from core.batching.device import Device
from core.batching.items import Modality
from core.batching.scheduler import Scheduler
from core.batching.tally import Tally, readings, total
from core.clip.engine import EngineBroken
from core.metrics import Reading

logger = logging.getLogger(__name__)


class Batcher:
    """Owns one thread per device, which alone touches the model there.

    It is made when every device is prepared: no pass runs while another device is. Raises what preparing raises.
    """

    def __init__(
        self, scheduler: Scheduler, devices: Sequence[Device], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        prepared = [(device, Future[None]()) for device in devices]
        self._scheduler = scheduler
        self._clock = clock
        self._devices = devices
        self._broken = False
        self._threads = [
            threading.Thread(target=self._serve, args=pair, name=f"device-{pair[0].name}", daemon=True)
            for pair in prepared
        ]
        for thread in self._threads:
            thread.start()
        for _, outcome in prepared:
            self._wait_for(outcome)

    @property
    def healthy(self) -> bool:
        """Whether every device thread still serves."""
        return not self._broken and all(thread.is_alive() for thread in self._threads)

    @property
    def done(self) -> Mapping[Modality, Tally]:
        """What all devices together have done."""
        return total(device.done.tallies for device in self._devices)

    def readings(self) -> Iterator[Reading]:
        """What they have done, for metrics."""
        return readings([device.done for device in self._devices])

    def pass_serials(self) -> tuple[int | None, ...]:
        """Per device the number of the pass that runs there, None where none does. From any thread."""
        return tuple(device.pass_serial for device in self._devices)

    def fail(self) -> None:
        """Take nothing more and answer what waits and what runs with `NotReady`, for good.

        For a device that is lost, or that does not come back from a forward pass: its thread is left to itself.
        """
        self._broken = True
        self._scheduler.close(at_once=True)

    def close(self) -> None:
        """Stop after the passes that are running; what still waits fails with `NotReady`."""
        self._scheduler.close()
        for thread in self._threads:
            # The thread of a broken device may never come back.
            if not self._broken:
                thread.join()

    def _wait_for(self, prepared: Future[None]) -> None:
        try:
            prepared.result()
        except Exception:
            self.fail()
            raise

    def _serve(self, device: Device, prepared: Future[None]) -> None:
        try:
            device.prepare_thread()
        except Exception as error:
            prepared.set_exception(error)
            return
        prepared.set_result(None)
        while (taken := self._scheduler.next_pass(device)) is not None:
            began_s = self._clock()
            try:
                device.run(taken.modality, taken.items)
            except EngineBroken as error:
                logger.critical("the device is lost", extra={"cause": str(error.__cause__ or error)[:300]})
                self.fail()
                return
            finally:
                self._scheduler.finished(taken, self._clock() - began_s)
