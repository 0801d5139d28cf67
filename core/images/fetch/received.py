"""The bytes that one connection has received and nobody has taken yet; knows no sockets."""

from collections.abc import Callable

from core.images.fetch.failures import closed_early, not_http
from core.images.fetch.head import Head, parse_head

# A thumbnail and its head in one receive. A head, with the interim answers before it, must fit in: what is longer is
# a `DownloadError` (browsers take more, servers send a few KiB).
BUFFER_BYTES = 65536

_HEAD_END = b"\r\n\r\n"
_HTTP = b"HTTP/"


class Received:
    """One buffer, used for one answer after another.

    `receive_into` fills a view with what there is, returns how many bytes that were, and 0 at the stream's end.
    """

    def __init__(self, receive_into: Callable[[memoryview], int]) -> None:
        self._receive_into = receive_into
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0  # of what nobody has taken
        self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def clear(self) -> None:
        self._start = self._end = 0

    @property
    def anything(self) -> bool:
        """Whether something came since it was cleared last, taken or not."""
        return self._end > 0

    def fill(self) -> int:
        """Receive what there is behind what came before; 0 at the end of the stream."""
        count = self._receive_into(self._view[self._end :])
        self._end += count
        return count

    def refill(self) -> int:
        """The same when all was taken: from the buffer's beginning."""
        self.clear()
        return self.fill()

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, or as many as there are; good until the next `refill` or `clear`."""
        taken = self._view[self._start : min(self._start + count, self._end)]
        self._start += len(taken)
        return taken

    def take_head(self) -> Head:
        """Receive up to the end of the next head, and take it.

        Raises `ConnectionResetError` when the stream ends before anything came, `DownloadError` for no head.
        """
        searched = self._start
        while (end := self._buffer.find(_HEAD_END, searched, self._end)) < 0:
            self._refuse_no_head(searched)
            searched = max(self._start, self._end - len(_HEAD_END) + 1)
            if not self.fill():
                raise closed_early() if self.anything else ConnectionResetError("closed without an answer")
        return parse_head(self.take(end + len(_HEAD_END) - self._start))

    def receive_rest_into(self, view: memoryview) -> None:
        """Receive until `view` is full, past the buffer; raises `DownloadError` when the stream ends before."""
        while view:
            count = self._receive_into(view)
            if not count:
                raise closed_early()
            view = view[count:]

    def _refuse_no_head(self, searched: int) -> None:
        """Refuse what will never become one, instead of waiting for its end until the deadline."""
        too_long = self._end == BUFFER_BYTES
        beginning = self._view[self._start : min(self._start + len(_HTTP), self._end)]
        bare_lf = self._buffer.find(b"\n\n", searched, self._end) >= 0
        if too_long or bare_lf or not _HTTP.startswith(beginning):
            raise not_http()
