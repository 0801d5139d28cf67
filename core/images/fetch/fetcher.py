"""Downloads images that strangers name by URL. Blocking, thread-safe; knows nothing of images or requests."""

from dataclasses import dataclass

from core.deadline import Deadline
from core.errors import DownloadError
from core.images.fetch.allowlist import AllowList
from core.images.fetch.body import Reserve
from core.images.fetch.budget import TimeBudget
from core.images.fetch.connection import CheckedConnection, Connector
from core.images.fetch.failures import failure_of
from core.images.fetch.head import Head
from core.images.fetch.idle import IdleConnections
from core.images.fetch.resolver import MAX_LOOKUPS, Lookups, Resolver, resolve_with_system
from core.images.fetch.response import location_of, require_plain_200
from core.images.fetch.sockets import Connect, connect_to, make_tls_context
from core.images.fetch.urls import Url, parse_url, resolve_location


@dataclass(frozen=True)
class FetchLimits:
    """`timeout_s` is for the whole download: lookups, connections, redirects and body."""

    max_bytes: int
    timeout_s: float
    max_redirects: int = 3

    def __post_init__(self) -> None:
        if self.max_bytes <= 0 or self.timeout_s <= 0 or self.max_redirects < 0:
            raise ValueError("limits must be positive")


@dataclass(frozen=True)
class _Redirect:
    location: bytes


class Fetcher:
    """`resolve` and `connect` are how names become addresses and addresses become sockets.

    `ca_file` (PEM) replaces the system's certificate authorities.
    """

    def __init__(
        self,
        limits: FetchLimits,
        allow: AllowList,
        *,
        resolve: Resolver = resolve_with_system,
        connect: Connect = connect_to,
        max_lookups: int = MAX_LOOKUPS,
        max_idle_connections: int = 32,
        ca_file: str | None = None,
    ) -> None:
        self._limits = limits
        lookups = Lookups(resolve, max_lookups=max_lookups)
        self._connector = Connector(allow, lookups, connect, make_tls_context(ca_file))
        self._idle = IdleConnections(max_connections=max_idle_connections)

    def fetch(self, url: str, *, deadline: Deadline, reserve: Reserve = lambda _count: None) -> bytes:
        """The whole body of the image at `url`; `reserve` is told of its bytes before they are kept.

        Raises `UrlNotAllowed`, `DownloadError`, `DownloadTimeout` when `limits.timeout_s` ran out,
        `DeadlineExceeded` when `deadline` came first, `ImageTooLarge`, and what `reserve` raises.
        """
        own = Deadline.after(self._limits.timeout_s, deadline.cancellation)
        budget = TimeBudget(own=own, request=deadline)
        target = parse_url(url)
        for _ in range(self._limits.max_redirects + 1):
            answer = self._get(target, budget, reserve)
            if isinstance(answer, bytes):
                return answer
            target = _next_hop(target, answer)
        raise DownloadError(f"the image's server redirected more than {self._limits.max_redirects} times")

    def close(self) -> None:
        """Close idle connections; a fetch that is under way ends by itself and leaves none behind."""
        self._idle.close()

    def _get(self, url: Url, budget: TimeBudget, reserve: Reserve) -> bytes | _Redirect:
        if budget.ends.expired:
            raise budget.error()
        try:
            return self._exchange(url, budget.ends, reserve)
        except OSError as error:
            raise failure_of(error, budget) from error

    def _exchange(self, url: Url, ends: Deadline, reserve: Reserve) -> bytes | _Redirect:
        connection, head = self._ask(url, ends)
        try:
            location = location_of(head)
            if location is not None:
                connection.skip_body(head)
                return _Redirect(location)
            require_plain_200(head)
            return connection.read_body(head, max_bytes=self._limits.max_bytes, reserve=reserve)
        finally:
            if connection.reusable:
                self._idle.put(connection)
            else:
                connection.close()

    def _ask(self, url: Url, ends: Deadline) -> tuple[CheckedConnection, Head]:
        kept = self._idle.take(url.origin)
        if kept is not None:
            try:
                return kept, kept.get(url, ends)
            except OSError:
                # A server may close an idle connection while the request is on its way. Nothing came back,
                # so the image is asked for once more; anything else is the server's answer.
                if kept.heard or ends.expired:
                    raise
        fresh = self._connector.open(url, ends)
        return fresh, fresh.get(url, ends)


def _next_hop(current: Url, redirect: _Redirect) -> Url:
    target = resolve_location(current, redirect.location)
    if (current.scheme, target.scheme) == ("https", "http"):
        raise DownloadError("the image's server redirected from https to http")
    return target
