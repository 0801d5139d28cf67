"""What somebody sees who watches a run: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from typing import NoReturn, TextIO

from tqdm import tqdm

from bulk.account import Account

_LINE_EVERY_S = 10.0


class Progress:
    """Of one run. Rows that earlier runs have done count for what is left, and not for the rate."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bar: tqdm[NoReturn] | None = None
        self._said_s = 0.0
        self.rate = 0.0
        """Rows a second since the first piece was done: without the start of processes."""
        self._first: tuple[float, int] | None = None

    def begin(self, account: Account) -> None:
        self._said_s = time.monotonic()
        if self._stream.isatty():
            self._bar = tqdm(total=account.rows, initial=account.before, unit="row", file=self._stream)

    def show(self, account: Account) -> None:
        now_s = time.monotonic()
        self._first = self._first or (now_s, account.this_run)
        first_s, first_rows = self._first
        if account.this_run > first_rows:
            self.rate = (account.this_run - first_rows) / (now_s - first_s)
        if self._bar is not None:
            self._bar.set_postfix(rejects=account.rejects, refresh=False)
            self._bar.update(account.done - self._bar.n)
        elif now_s - self._said_s >= _LINE_EVERY_S or account.done == account.rows:
            self._said_s = now_s
            done = f"{account.done:,} of {account.rows:,} rows, {account.rejects:,} rejected"
            left = f", {duration((account.rows - account.done) / self.rate)} left" if self.rate else ""
            print(f"{done}, {self.rate:,.0f} a second{left}", file=self._stream, flush=True)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """As hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
