"""The time one download may take, and which error says that it ran out."""

from dataclasses import dataclass

from core.deadline import Deadline
from core.errors import DeadlineExceeded, DownloadTimeout


@dataclass(frozen=True)
class TimeBudget:
    """`own` ends by the download's own limit, `request` by that of the request it belongs to."""

    own: Deadline
    request: Deadline

    @property
    def ends(self) -> Deadline:
        return min(self.own, self.request)

    def error(self) -> DownloadTimeout | DeadlineExceeded:
        return DeadlineExceeded() if self.request <= self.own else DownloadTimeout()
