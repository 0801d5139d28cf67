"""Requests of every size and shape, for the memory run: all formats, many resolutions, batches, texts, broken ones."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bench.work import ImageBatches, Request, SingleImages, Texts
from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.testbed.pictures import encoded, natural

_SIDES = ((224, 224), (90, 60), (640, 480), (480, 1200), (1280, 720), (1920, 1080))
_LARGE = (4000, 3000)
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
# One more than the model takes, with start and end: the longest are cut.
_MOST_WORDS = 76
_LOSSLESS_IS_SLOW_ABOVE_PIXELS = 700_000


def files() -> Mapping[str, bytes]:
    """Images by name; those called broken-* are cut off, no image at all, or of a size that is refused."""
    good = {
        f"good-{width}x{height}.{file_format}": encoded(natural(width, height), file_format)
        for width, height in _SIDES
        for file_format in _FORMATS
        if file_format == "JPEG" or width * height < _LOSSLESS_IS_SLOW_ABOVE_PIXELS
    }
    large = encoded(natural(*_LARGE), "JPEG")
    whole = good["good-640x480.JPEG"]
    return {
        **good,
        "good-large.JPEG": large,
        "broken-cut.jpg": whole[: len(whole) // 2],
        "broken-none.jpg": b"<html>not an image</html>" * 100,
        "broken-thin.png": encoded(natural(2000, 8), "PNG"),
        "broken-large-cut.jpg": large[:-1000],
    }


@dataclass(frozen=True, slots=True)
class Mixture:
    """The kind of a request goes by its number, and every run of hundred numbers has the same share of each."""

    good: tuple[str, ...]
    broken: tuple[str, ...]
    secret: str

    def request(self, number: int) -> Request:
        # Consecutive numbers land far apart, so that kinds alternate instead of coming in blocks.
        make = self._kind((number * 37) % 100)
        return make(number)

    def _kind(self, place: int) -> Callable[[int], Request]:
        if place < 45:
            return lambda number: Texts(self.secret, words=1 + number % _MOST_WORDS).request(number)
        if place < 80:
            return SingleImages(self.good, self.secret).request
        if place < 88:
            return lambda number: ImageBatches(self.good, self.secret, 1 + number % 16).request(number)
        if place < 92:
            return lambda number: _unsure(ImageBatches(self.good + self.broken, self.secret, 8).request(number))
        if place < 96:
            return lambda number: _unsure(SingleImages(self.broken, self.secret).request(number))
        return self._malformed

    def _malformed(self, number: int) -> Request:
        """What a service must refuse and forget: a wrong signature, half a body, a long text, a wrong path."""
        signed = Texts(self.secret).request(number)
        unsigned = json.dumps({"text": "x" * (number % 9000 + 1), "auth": {"ts": 1, "sig": "0"}}).encode()
        return (
            replace(Texts("another secret").request(number), vectors=0),
            Request(EMBED_TEXT, signed.body[:-20], 0),
            Request(EMBED_TEXT, unsigned, 0),
            Request(f"{EMBED_IMAGE}/{number}", signed.body, 0),
        )[number % 4]


def _unsure(request: Request) -> Request:
    """How many vectors come back is the service's to say: the run is about memory."""
    return replace(request, vectors=0)
