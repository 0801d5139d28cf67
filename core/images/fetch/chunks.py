"""The chunked transfer coding (RFC 9112, 7.1), from what is on the wire to the bytes of the image."""

from httptools import HttpParserError, HttpResponseParser

from core.errors import DownloadError
from core.images.fetch.failures import not_http

# Sizes, extensions and trailers beside the image's own bytes. Without a bound, a server has every byte of an image
# parsed six times over, or trailers without end; servers send chunks of hundreds of bytes. A `DownloadError`.
MAX_FRAMING_BYTES = 65536
MAX_FRAMING_SHARE = 8  # beyond that, one byte of framing for so many of the image

# The parser wants a head. This one also makes it refuse what follows the body, which would else be parsed as a
# second answer and its body taken for more of this one.
_HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Pieces:
    """What the parser calls. Holds no reference to it: a cycle per download would be the collector's work."""

    def __init__(self) -> None:
        self.ended = False
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append  # no frame of ours per chunk

    def on_message_complete(self) -> None:
        self.ended = True


class ChunkDecoder:
    """Fed with the wire in pieces; `ended` once the last chunk and its trailers have come."""

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._parser = HttpResponseParser(self._pieces)
        self._parser.feed_data(_HEAD)
        self._wire_bytes = 0
        self._image_bytes = 0

    @property
    def ended(self) -> bool:
        return self._pieces.ended

    def decode(self, wire: memoryview) -> bytes:
        """The image's bytes in the next piece of wire; what follows the end is ignored."""
        try:
            self._parser.feed_data(wire)
        except HttpParserError as error:
            if not self.ended:
                raise not_http() from error
        image = b"".join(self._pieces.pieces)
        self._pieces.pieces.clear()
        self._wire_bytes += len(wire)
        self._image_bytes += len(image)
        self._refuse_too_much_framing()
        return image

    def _refuse_too_much_framing(self) -> None:
        framing_bytes = self._wire_bytes - self._image_bytes
        if framing_bytes > MAX_FRAMING_BYTES + self._image_bytes // MAX_FRAMING_SHARE:
            raise DownloadError("the image's server cut the image into too many chunks")
