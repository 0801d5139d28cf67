"""One pod or one serverless worker: admission, the main process, and the device, whose turns the service's own rule
chooses (`core.batching.choice`)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.scaling.agenda import Agenda
from bench.scaling.processor import Core, SharedProcessor
from bench.scaling.speed import Speed
from core.batching.choice import Choice, State, choose
from core.batching.items import Modality


@dataclass(frozen=True, slots=True)
class Limits:
    """The service's settings of the same names, and for a serverless worker its jobs at once."""

    requests: int
    max_batch: int


@dataclass(slots=True, eq=False)
class Request:
    """One request under way. `answered` is called once, when all of its items have gone through a pass."""

    modality: Modality
    items: int
    answered: Callable[[], None]
    waits_since_s: float = 0.0
    to_take: int = field(init=False)
    to_end: int = field(init=False)

    def __post_init__(self) -> None:
        self.to_take = self.to_end = self.items


class Replica:
    """Its requests share the main process with the passes that run; the passes are shared by all requests.

    Where decodes have no core of their own, one image process shares the main process' core, and the images' requests
    share that process.
    """

    def __init__(self, agenda: Agenda, speed: Speed, limits: Limits) -> None:
        self._agenda = agenda
        self._speed = speed
        self._limits = limits
        self._processor, self._decoder = SharedProcessor(agenda), SharedProcessor(agenda)
        if speed.decode_s:
            Core([self._processor, self._decoder])
        self._images = deque[Request]()
        self._texts = deque[Request]()
        self._free_streams = speed.streams
        self._state = State(shared=False, max_turn_s=float("inf"), max_batch=limits.max_batch)
        self.running = 0

    @property
    def has_room(self) -> bool:
        """Whether one more request is admitted."""
        return self.running < self._limits.requests

    @property
    def queued_s(self) -> float:
        """`clip_queued_seconds`: what waits for the device times the measured seconds per item, by modality."""
        unit_s = self._state.pace.unit_s
        return self._state.ready * unit_s[Modality.IMAGE] + self._state.texts * unit_s[Modality.TEXT]

    def accept(self, request: Request) -> None:
        """Take a request that there is room for."""
        self.running += 1
        self._processor.run(self._speed.request_s[request.modality], lambda: self._received(request))

    def _received(self, request: Request) -> None:
        if request.modality is Modality.IMAGE and self._speed.decode_s:
            self._decoder.run(request.items * self._speed.decode_s, lambda: self._fetch(request))
        else:
            self._fetch(request)

    def _fetch(self, request: Request) -> None:
        fetch_s = self._speed.fetch_seconds(request.modality, request.items)
        self._agenda.after(fetch_s, lambda: self._ready(request))

    def _ready(self, request: Request) -> None:
        request.waits_since_s = self._agenda.now_s
        if request.modality is Modality.TEXT:
            self._texts.append(request)
            self._state.texts += request.items
        else:
            self._images.append(request)
            self._state.ready += request.items
        self._begin_passes()

    def _begin_passes(self) -> None:
        while self._free_streams:
            state = self._state
            state.oldest_text_s = self._texts[0].waits_since_s if self._texts else float("inf")
            choice = choose(state, self._agenda.now_s)
            if choice not in (Choice.IMAGES, Choice.TEXTS):
                return
            self._begin(Modality.IMAGE if choice is Choice.IMAGES else Modality.TEXT)

    def _begin(self, modality: Modality) -> None:
        """The bookkeeping of turns is that of `core.batching.scheduler`."""
        now_s, state = self._agenda.now_s, self._state
        if modality is Modality.TEXT:
            taken = self._take(self._texts)
            items = sum(count for _, count in taken)
            state.texts -= items
            state.text_turn_s = now_s if state.text_turn_s is None else state.text_turn_s
        else:
            taken = self._take(self._images)
            items = sum(count for _, count in taken)
            state.ready -= items
            state.text_turn_s = None
        self._free_streams -= 1
        device_s = self._speed.pass_seconds(modality, items)

        def prepared() -> None:
            self._agenda.after(device_s, lambda: self._finished(modality, items, taken, now_s))

        self._processor.run(items * self._speed.item_s, prepared)

    def _take(self, waiting: deque[Request]) -> list[tuple[Request, int]]:
        """What of which request goes with the next pass, oldest first."""
        left, taken = self._limits.max_batch, list[tuple[Request, int]]()
        while waiting and left:
            first = waiting[0]
            count = min(left, first.to_take)
            taken.append((first, count))
            first.to_take -= count
            left -= count
            if first.to_take == 0:
                waiting.popleft()
        return taken

    def _finished(self, modality: Modality, items: int, taken: list[tuple[Request, int]], began_s: float) -> None:
        seconds, state = self._agenda.now_s - began_s, self._state
        self._free_streams += 1
        state.pace.note(modality, items, seconds)
        if modality is Modality.IMAGE:
            state.note_image_turn(seconds)
            if state.texts:
                state.shares.note(Modality.IMAGE, seconds)
        elif state.images_wait:
            state.shares.note(Modality.TEXT, seconds)
        for request, count in taken:
            request.to_end -= count
            if request.to_end == 0:
                self.running -= 1
                request.answered()
        self._begin_passes()
