"""How much each client may ask for, in items and in bytes, and what happens while the store of the counts is away.

Counting is the `limits` library's: a sliding window, a few numbers for each client and limit whatever a request costs
(docs/decisions/0027-rate-limits.md). A question to the store blocks: it belongs on the request's thread.
"""

import logging
import math
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from limits import RateLimitItem, parse_many
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from core.errors import RateLimited, StartError
from core.outages import Outages
from core.redis_connections import NOT_REDIS, open_pool
from core.settings import ServiceSettings
from core.standing import Standing

logger = logging.getLogger(__name__)

# For each question to the store: a store that hangs holds a request this long, and only once. Answers are some numbers.
STORE_TIMEOUT_S = 0.25
_MAX_ANSWER_BYTES = 65_536

# Other services may keep their counts in the same Redis.
_KEY_PREFIX = "clip-embedding"

Unit = Literal["items", "bytes"]
WhenAway = Literal["open", "closed"]
Store = MemoryStorage | RedisStorage


@dataclass(frozen=True, slots=True)
class Limit:
    """So much of `unit` per time, for each client."""

    unit: Unit
    rate: RateLimitItem

    def __str__(self) -> str:
        return f"{self.rate.amount} {self.unit} per {self.rate.multiples} {self.rate.GRANULARITY.name}"


@dataclass(frozen=True, slots=True)
class Window:
    """What the library counts for one client and limit: this window, and of the one before it the share that a window
    which ends now still covers. `ends_s` is how long this window still lasts.
    """

    length_s: int
    previous: int
    current: int
    ends_s: float

    @property
    def used(self) -> int:
        return math.floor(self.previous * self.ends_s / self.length_s) + self.current

    def room_in_s(self, cost: int, limit: int) -> int:
        """Whole seconds, at least 1, until `cost` of `limit` is free if nothing else is asked; `cost` is at most
        `limit`.
        """
        left = limit - cost - self.current
        if left >= 0:
            waits_s = self._shrunk_in_s(self.previous, self.ends_s, left)
        else:
            # Only as the window before does what is asked for now lose its weight.
            waits_s = self.ends_s + self._shrunk_in_s(self.current, self.length_s, limit - cost)
        return math.floor(waits_s) + 1

    def empty_in_s(self) -> int:
        """Whole seconds until nothing of what was asked for counts any more."""
        if self.current > 0:
            return math.ceil(self.ends_s + self.length_s)
        return math.ceil(self.ends_s) if self.previous > 0 else 0

    def _shrunk_in_s(self, count: int, lasts_s: float, left: int) -> float:
        """When `count`, which weighs nothing in `lasts_s`, weighs less than `left` and one."""
        return max(0.0, lasts_s - self.length_s * (left + 1) / count) if count > left else 0.0


class RateLimits:
    """All limits, for all clients. Thread-safe; processes over one Redis share the counts."""

    def __init__(
        self, limits: Sequence[Limit], store: Store, *, when_away: WhenAway, outages: Outages | None = None
    ) -> None:
        self._limits = limits
        self._store = store
        self._limiter = SlidingWindowCounterRateLimiter(store)
        self._when_away = when_away
        self._outages = outages or Outages()
        # A script is one step in Redis; in memory, counting is several.
        self._one_step: AbstractContextManager[object] = (
            threading.Lock() if isinstance(store, MemoryStorage) else nullcontext()
        )

    def check(self, client: str, items: int, bytes_: int) -> Standing | None:
        """Take `items` and `bytes_` from what `client` may ask for, or nothing at all. Blocks on the store.

        Returns where the client stands with its scarcest limit; None where it is let in unasked, because the store is
        away. Raises `RateLimited`.
        """
        costs: Mapping[Unit, int] = {"items": items, "bytes": bytes_}
        ticket = self._outages.begin()
        if ticket is None:
            self._let_in_unasked(costs)
            return None
        try:
            with self._one_step:
                standing = self._take(client, costs)
        except (StorageError, *NOT_REDIS) as error:
            if self._outages.failed(ticket):
                reason = error.storage_error if isinstance(error, StorageError) else error
                fields = {"when_away": self._when_away, "reason": str(reason)}
                logger.warning("the limits' store is away", extra=fields)
            self._let_in_unasked(costs)
            return None
        except RateLimited:
            self._heard(ticket)
            raise
        self._heard(ticket)
        return standing

    def _take(self, client: str, costs: Mapping[Unit, int]) -> Standing:
        if never := self._never(costs):
            raise _never_fits(never, costs[never.unit], _standing(never, self._window(never, client)))
        taken: list[Limit] = []
        for limit in self._limits:
            if not self._limiter.hit(limit.rate, limit.unit, client, cost=costs[limit.unit]):
                # First taken and then given back, because looking first leaves a moment in which others take it.
                for one in taken:
                    self._limiter.hit(one.rate, one.unit, client, cost=-costs[one.unit])
                raise self._refusal(limit, client, costs)
            taken.append(limit)
        standings = [_standing(limit, self._window(limit, client)) for limit in self._limits]
        return min(standings, key=lambda standing: standing.remaining / standing.limit)

    def _refusal(self, refusing: Limit, client: str, costs: Mapping[Unit, int]) -> RateLimited:
        windows = {limit: self._window(limit, client) for limit in self._limits}
        waits_s = max(
            window.room_in_s(costs[limit.unit], limit.rate.amount)
            for limit, window in windows.items()
            if limit is refusing or window.used + costs[limit.unit] > limit.rate.amount
        )
        message = f"over this client's limit of {refusing}: there is room in {waits_s} s"
        return RateLimited(message, retry_after_s=waits_s, standing=_standing(refusing, windows[refusing]))

    def _window(self, limit: Limit, client: str) -> Window:
        length_s = limit.rate.get_expiry()
        key = limit.rate.key_for(limit.unit, client)
        previous, previous_ends_s, current, current_ends_s = self._store.get_sliding_window(key, length_s)
        # The library keeps a window's count for as long again as the window lasts.
        ends_s = previous_ends_s if previous else max(0.0, current_ends_s - length_s)
        return Window(length_s, previous, current, ends_s)

    def _never(self, costs: Mapping[Unit, int]) -> Limit | None:
        """The limit that is smaller than what is asked for in one request."""
        return next((limit for limit in self._limits if costs[limit.unit] > limit.rate.amount), None)

    def _let_in_unasked(self, costs: Mapping[Unit, int]) -> None:
        if never := self._never(costs):
            raise _never_fits(never, costs[never.unit], _unknown(never))
        if self._when_away == "closed":
            raise RateLimited("the limits' store is away", standing=_unknown(self._limits[0]))

    def _heard(self, ticket: int) -> None:
        lasted_s = self._outages.answered(ticket)
        if lasted_s is not None:
            logger.warning("the limits' store is back", extra={"away_s": round(lasted_s, 1)})


def parse_rate(text: str) -> RateLimitItem:
    """Read one rate, such as "600/minute" or "1000 per 2 hours". Raises `ValueError`."""
    rates = parse_many(text)
    # The library reads "per 0 hours" as "per hour".
    if len(rates) != 1 or rates[0].amount < 1 or re.search(r"(/|per)\s*0+\s*[a-z]", text, re.IGNORECASE):
        raise ValueError("not one rate over 0")
    return rates[0]


def read_limits(settings: ServiceSettings) -> list[Limit]:
    """Return the limits that are set. Raises `StartError`, which names the variable."""
    given: Mapping[Unit, str] = {"items": settings.rate_limit_items, "bytes": settings.rate_limit_bytes}
    return [_limit(unit, text) for unit, text in given.items() if text]


def require_store(address: str) -> None:
    """Check what can be known of RATE_LIMIT_STORAGE without asking it. Raises `StartError`; the address, which may
    hold a password, is not in it.
    """
    try:
        open_store(address)
    except ValueError as error:
        raise StartError("RATE_LIMIT_STORAGE: must be memory://, or the address of a Redis, redis://…") from error


def build_rate_limits(settings: ServiceSettings) -> RateLimits:
    """Return the limits over their store, which is not asked yet. Raises `StartError`."""
    require_store(settings.rate_limit_storage)
    store = open_store(settings.rate_limit_storage)
    return RateLimits(read_limits(settings), store, when_away=settings.rate_limit_when_away)


def open_store(address: str, *, timeout_s: float = STORE_TIMEOUT_S) -> Store:
    """Connects to nothing yet. `timeout_s` is for connecting and for each question. Raises `ValueError` for an address
    that cannot be read.
    """
    if address == "memory://":
        return MemoryStorage(wrap_exceptions=True)
    return RedisStorage(
        address,
        open_pool(address, timeout_s=timeout_s, max_answer_bytes=_MAX_ANSWER_BYTES),
        key_prefix=_KEY_PREFIX,
        wrap_exceptions=True,
    )


def _limit(unit: Unit, text: str) -> Limit:
    try:
        return Limit(unit, parse_rate(text))
    except ValueError as error:
        raise StartError(f'RATE_LIMIT_{unit.upper()}: must be a rate such as "600/minute", at least 1') from error


def _never_fits(limit: Limit, cost: int, standing: Standing) -> RateLimited:
    message = f"{cost} {limit.unit} in one request never fit this client's limit of {limit}: ask for less at once"
    return RateLimited(message, retry_after_s=limit.rate.get_expiry(), standing=standing)


def _unknown(limit: Limit) -> Standing:
    """While nobody can count nothing is known to be left."""
    return Standing(limit.rate.amount, remaining=0, reset_s=limit.rate.get_expiry())


def _standing(limit: Limit, window: Window) -> Standing:
    amount = limit.rate.amount
    return Standing(amount, min(amount, max(0, amount - window.used)), window.empty_in_s())
