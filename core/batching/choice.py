"""Who goes next: the one place that decides whether images are decoded, images are encoded or texts are encoded.

Pure functions over a `State` that the scheduler keeps; no thread, no lock, no clock of their own.

The rules, in their order:
- Where decoder and device share their cores, they take turns: a pass splits every layer over all cores and waits for
  the slowest part, so a decode beside it holds all of them up.
- When images and texts both wait, they alternate, so a text never waits for two image passes. A turn of the texts is
  one pass; it has more for those that waited when it began, while texts have had less than a third of the time that
  both wanted. Every turn of the texts is followed by one of the images, and a pass of the texts is at most twice as
  long as that usually is, so these have their third too.
- While texts come, an image turn (decoding and pass) is kept within `max_turn_s`, as predicted from the passes before.
- An image pass begins when it is full or nothing more can be decoded for it.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

from core.averages import moving_average
from core.batching.items import Modality

# Texts count as coming for this long after the last one.
TEXTS_COME_S = 2.0

# A pass waits no longer than this for a decode under way: some dozens of usual ones take less, a stranger's may take
# seconds. It then begins beside it.
DECODE_PATIENCE_S = 0.25

# With both kinds waiting, each gets at least this share of the time.
LEAST_SHARE = 1 / 3

# How much the newest pass says about the next one's time, and about who has had which share.
_NEWEST = 0.2

# Texts of one request are due one after the other at this distance.
_TEXT_SPACING_S = 0.01

# Of a text pass: padded tokens that hold a token at least, so that one long text does not pad many short ones.
_LEAST_FILL = 0.5


class Choice(Enum):
    """What may begin now."""

    IMAGES = "images"
    TEXTS = "texts"
    DECODE = "decode"
    WAIT = "wait"


@dataclass(slots=True)
class Pace:
    """Seconds that passes take per unit of width (an image, a padded token): a moving average; 0.0 before any."""

    unit_s: dict[Modality, float] = field(default_factory=lambda: dict.fromkeys(Modality, 0.0))

    def note(self, modality: Modality, units: int, seconds: float) -> None:
        """A pass of `units` took `seconds`."""
        self.unit_s[modality] = moving_average(self.unit_s[modality], seconds / units, newest=_NEWEST)

    def units_in(self, modality: Modality, seconds: float) -> int:
        """How many units a pass of `seconds` has; at least one."""
        unit_s = self.unit_s[modality]
        return 1 if unit_s == 0.0 else max(1, int(seconds / unit_s))


@dataclass(slots=True)
class Shares:
    """How the time of passes that both kinds waited for was shared lately; images' time includes their decoding."""

    used_s: dict[Modality, float] = field(default_factory=lambda: dict.fromkeys(Modality, 0.0))

    def note(self, modality: Modality, seconds: float) -> None:
        """A turn that both kinds had waited for took `seconds`."""
        for kind in Modality:
            self.used_s[kind] *= 1 - _NEWEST
        self.used_s[modality] += seconds

    def of(self, modality: Modality) -> float:
        """0 to 1; a half before there was anything to share."""
        total_s = sum(self.used_s.values())
        return self.used_s[modality] / total_s if total_s > 0.0 else 0.5


@dataclass(slots=True)
class State:
    """What `choose` goes by. Counts are of images and texts, times are readings of the monotonic clock.

    `shared` says that decoder and device need the same cores; `max_turn_s` matters only there. `decoders` is how many
    decodes can be under way; `decoding_s` holds when each of them began. `image_turn_s` and `text_turn_s` are when the
    present turn of that kind began, None outside of one.
    """

    shared: bool
    max_turn_s: float
    max_batch: int
    decoders: int = 1
    to_decode: int = 0
    decoding_s: Collection[float] = ()
    ready: int = 0
    texts: int = 0
    oldest_text_s: float = float("inf")
    passes: int = 0
    text_came_s: float = float("-inf")
    image_turn_s: float | None = None
    text_turn_s: float | None = None
    usual_image_turn_s: float = 0.0
    pace: Pace = field(default_factory=Pace)
    shares: Shares = field(default_factory=Shares)

    def young_decodes(self, now_s: float) -> int:
        """Decodes that a pass waits for."""
        return sum(now_s - began_s < DECODE_PATIENCE_S for began_s in self.decoding_s)

    @property
    def images_wait(self) -> bool:
        """For the device, or to be decoded for it."""
        return self.ready + self.to_decode + len(self.decoding_s) > 0

    def max_images(self, now_s: float) -> int:
        """How many images the next pass may hold."""
        if not self.shared or now_s - self.text_came_s > TEXTS_COME_S:
            return self.max_batch
        decoding_s = 0.0 if self.image_turn_s is None else now_s - self.image_turn_s
        return min(self.max_batch, self.pace.units_in(Modality.IMAGE, self.max_turn_s - decoding_s))

    def max_tokens(self, most: int) -> int:
        """How many padded tokens the next text pass may hold, at most `most`."""
        longest_s = self._text_pass_beside_images_s() if self.images_wait else math.inf
        return most if longest_s == math.inf else min(most, self.pace.units_in(Modality.TEXT, longest_s))

    def _text_pass_beside_images_s(self) -> float:
        """Images have one turn for each pass of the texts: twice as long as that leaves them their third."""
        their_third_s = 2 * self.usual_image_turn_s if self.usual_image_turn_s > 0.0 else math.inf
        return min(self.max_turn_s if self.shared else math.inf, their_third_s)

    def note_image_turn(self, seconds: float) -> None:
        """One is over: decoding and pass."""
        self.usual_image_turn_s = moving_average(self.usual_image_turn_s, seconds, newest=_NEWEST)


def choose(state: State, now_s: float) -> Choice:
    """What a free device, or decoders that wait for their turn, may begin now."""
    if not state.shared:
        return _for_a_device_of_its_own(state)
    if state.passes > 0:
        return Choice.WAIT
    if _turn(state) is Modality.TEXT:
        return Choice.WAIT if state.young_decodes(now_s) else Choice.TEXTS
    choice = _image_turn(state, now_s) if state.images_wait else Choice.WAIT
    # Images whose decodes are old wait for those, and keep nobody else.
    return Choice.TEXTS if choice is Choice.WAIT and state.texts and not state.young_decodes(now_s) else choice


def _for_a_device_of_its_own(state: State) -> Choice:
    """Decoders need no turn there, and what is not decoded yet is not waited for."""
    if state.ready == 0:
        return Choice.TEXTS if state.texts else Choice.WAIT
    return Choice.TEXTS if _turn(state) is Modality.TEXT else Choice.IMAGES


def _turn(state: State) -> Modality:
    if state.texts == 0:
        return Modality.IMAGE
    if not state.images_wait or state.text_turn_s is None:
        return Modality.TEXT
    waited_at_its_begin = state.oldest_text_s <= state.text_turn_s
    return Modality.TEXT if waited_at_its_begin and state.shares.of(Modality.TEXT) < LEAST_SHARE else Modality.IMAGE


def _image_turn(state: State, now_s: float) -> Choice:
    young, most = state.young_decodes(now_s), state.max_images(now_s)
    if state.ready + young < most and state.to_decode and len(state.decoding_s) < state.decoders:
        return Choice.DECODE
    if young or state.ready == 0:
        return Choice.WAIT
    return Choice.IMAGES


def due_times(ready_s: float, texts: int) -> list[float]:
    """When each of the texts of one request, which are ready now, has its turn: they are taken in that order.

    As if a request had a hundred texts a second. So a search does not wait for the 255 others of a batch that came just
    before it, and what comes later passes only that part of a batch whose time has not come: no text waits for ever.
    While nobody else waits, all of a batch goes at once.
    """
    return [ready_s + position * _TEXT_SPACING_S for position in range(texts)]


def texts_of_a_pass(widths: Sequence[int], *, max_texts: int, max_tokens: int) -> list[int]:
    """Positions of the waiting texts that go together, oldest first; the oldest is always among them.

    All are padded to the widest. Another one joins while rows times width stays within `max_tokens` and at least half
    of that is texts of about this width: a text of 77 tokens does not pad 31 of 12, which go with the next pass.
    """
    taken, widest, filled = [0], widths[0], widths[0]
    for position, width in enumerate(widths[1:], start=1):
        if len(taken) == max_texts:
            break
        padded = (len(taken) + 1) * max(widest, width)
        if padded <= max_tokens and filled + width >= padded * _LEAST_FILL:
            taken.append(position)
            widest, filled = max(widest, width), filled + width
    return taken
