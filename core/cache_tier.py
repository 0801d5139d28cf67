"""Rows that processes share through a Redis or Valkey: the cache's second tier (docs/decisions/0026-cache.md).

Whatever that server does costs no request more than the time of an answer, and of those that a connection begins with:
it is asked while it answers, and written to behind the requests' back. Knows keys and rows, not what they are of.
"""

import hashlib
import logging
import math
import struct
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from redis import ConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from core.batching.items import Encoded
from core.cache import Key
from core.errors import StartError
from core.outages import Outages
from core.redis_connections import NOT_REDIS, open_pool

logger = logging.getLogger(__name__)

# For connecting, and for each answer: a server that hangs holds a request this long, and only once.
TIMEOUT_S = 0.25

# Eviction is the server's own (`maxmemory-policy`). This is for the keys of models that are served no more, which
# nobody would ever ask for again.
EXPIRY_S = 30 * 24 * 3600

# Rows that wait to be written: 2 MB. A server that keeps up has a few of them.
MAX_WAITING = 1024

# In one round trip.
_WRITTEN_AT_ONCE = 64
_READ_AT_ONCE = 256
# What belongs to a value beside it: its length, and the ends of lines.
_BESIDE_A_VALUE_BYTES = 32
_LEAST_ANSWER_BYTES = 65_536

# Others may keep something in the same server. The number is that of the values' form.
_PREFIX = "clip-embedding:row:1:"

_CHECKSUM_BYTES = 8
_NORM = struct.Struct("<d")
_NUMBERS = np.dtype("<f4")

_ERRORS = (RedisError, *NOT_REDIS)
_AWAY = (RedisConnectionError, RedisTimeoutError, *NOT_REDIS)


@dataclass(frozen=True, slots=True)
class TierCounts:
    """Rows since the start. `dropped` ones were computed and not written, `corrupt` ones read and not believed."""

    found: int = 0
    written: int = 0
    dropped: int = 0
    corrupt: int = 0


class SharedRows:
    """Thread-safe; a `core.cache.Shared`. `dim` is how many numbers a row has."""

    def __init__(self, client: Redis, *, dim: int, outages: Outages | None = None) -> None:
        self._client = client
        self._dim = dim
        self._outages = outages or Outages()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Key, Encoded]] = deque()
        self._counts = TierCounts()
        self._refusal_told = False
        self._closing = False
        self._writer = threading.Thread(target=self._write_all, name="cache-writer", daemon=True)
        self._writer.start()

    @property
    def counts(self) -> TierCounts:
        """Since the start."""
        with self._changed:
            return self._counts

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Encoded]:
        """Return those rows that are there. Blocks for a round trip per 256 of `keys`; while the server is away nothing
        is there.
        """
        rows: dict[Key, Encoded] = {}
        for start in range(0, len(keys), _READ_AT_ONCE):
            rows |= self._find(keys[start : start + _READ_AT_ONCE])
        return rows

    def _find(self, keys: Sequence[Key]) -> Mapping[Key, Encoded]:
        ticket = self._outages.begin()
        if ticket is None:
            return {}
        try:
            values = self._read(keys)
        except _ERRORS as error:
            self._failed(ticket, error)
            return {}
        self._heard(ticket)
        given = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        rows = {key: row for key, value in given.items() if (row := unpack(key, value, self._dim)) is not None}
        self._note(found=len(rows), corrupt=len(given) - len(rows))
        return rows

    def put(self, key: Key, row: Encoded) -> None:
        """Have `row` written soon, or not at all where too many wait. Never blocks."""
        with self._changed:
            fits = len(self._waiting) < MAX_WAITING and not self._closing
            if fits:
                self._waiting.append((key, row))
                self._changed.notify()
        if not fits:
            self._note(dropped=1)

    def close(self) -> None:
        """Write what waits, end the thread and the connections."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join()
        self._client.close()
        counts = self.counts
        fields = {"found": counts.found, "written": counts.written, "dropped": counts.dropped}
        logger.info("the shared cache is closed", extra={**fields, "corrupt": counts.corrupt})

    def _read(self, keys: Sequence[Key]) -> list[object]:
        values: object = self._client.mget([_name(key) for key in keys])
        if not isinstance(values, list) or len(values) != len(keys):
            raise ValueError("not one value for each key")
        return values

    def _write_all(self) -> None:
        while batch := self._next_batch():
            try:
                self._write(batch)
            except Exception:
                # The thread is the only one: without it every row would be dropped from now on.
                logger.exception("rows could not be written to the shared cache")
                self._note(dropped=len(batch))

    def _next_batch(self) -> list[tuple[Key, Encoded]]:
        """Wait for something to write; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return [self._waiting.popleft() for _ in range(min(_WRITTEN_AT_ONCE, len(self._waiting)))]

    def _write(self, batch: Sequence[tuple[Key, Encoded]]) -> None:
        ticket = self._outages.begin()
        if ticket is None:
            self._note(dropped=len(batch))
            return
        pipeline = self._client.pipeline(transaction=False)
        for key, row in batch:
            pipeline.set(_name(key), pack(key, row), ex=EXPIRY_S)
        try:
            pipeline.execute()
        except _ERRORS as error:
            self._failed(ticket, error)
            self._note(dropped=len(batch))
            return
        self._heard(ticket)
        self._note(written=len(batch))

    def _failed(self, ticket: int, error: Exception) -> None:
        """A refusal (no memory left, a replica, no permission) is no outage: what else is asked may be answered."""
        if not isinstance(error, _AWAY):
            self._heard(ticket)
            self._tell_refusal(error)
        elif self._outages.failed(ticket):
            logger.warning("the shared cache is away", extra={"reason": str(error)})

    def _heard(self, ticket: int) -> None:
        lasted_s = self._outages.answered(ticket)
        if lasted_s is not None:
            logger.warning("the shared cache is back", extra={"away_s": round(lasted_s, 1)})

    def _tell_refusal(self, error: Exception) -> None:
        with self._changed:
            told, self._refusal_told = self._refusal_told, True
        if not told:
            logger.warning("the shared cache refuses what it is asked", extra={"reason": str(error)})

    def _note(self, *, found: int = 0, written: int = 0, dropped: int = 0, corrupt: int = 0) -> None:
        with self._changed:
            before = self._counts
            self._counts = replace(
                before,
                found=before.found + found,
                written=before.written + written,
                dropped=before.dropped + dropped,
                corrupt=before.corrupt + corrupt,
            )
        if corrupt and not before.corrupt:
            logger.warning("the shared cache has rows that are not whole: they are computed anew")


def pack(key: Key, row: Encoded) -> bytes:
    """Return the value of a row: a checksum of 8 bytes over `key` and the rest, its norm as float64, its numbers as
    float32, all little-endian.
    """
    payload = _NORM.pack(row.norm) + row.vector.astype(_NUMBERS).tobytes()
    return _checksum(key, payload) + payload


def unpack(key: Key, value: object, dim: int) -> Encoded | None:
    """Return the row of `dim` numbers that `pack` made `value` of, for this `key`; None for anything else."""
    if not isinstance(value, bytes) or len(value) != _value_bytes(dim):
        return None
    payload = value[_CHECKSUM_BYTES:]
    if value[:_CHECKSUM_BYTES] != _checksum(key, payload):
        return None
    (norm,) = _NORM.unpack_from(payload)
    vector = np.frombuffer(payload, _NUMBERS, offset=_NORM.size).astype(np.float32)
    if not (math.isfinite(norm) and norm > 0 and np.isfinite(vector).all()):
        return None
    return Encoded(vector, norm, 0.0, 0.0)


def require_address(address: str) -> None:
    """Check what can be known of CACHE_URL without asking it. Raises `StartError`; the address, which may hold a
    password, is not in it.
    """
    try:
        pool = _pool(address, dim=1, timeout_s=TIMEOUT_S)
        # Options that no connection has show only here; it connects to nothing yet.
        pool.connection_class(**pool.connection_kwargs)
    except _ERRORS as error:
        raise StartError(
            "CACHE_URL: must be the address of a Redis, redis://…, rediss://… or redis+unix://…"
        ) from error


def open_shared_rows(
    address: str, *, dim: int, timeout_s: float = TIMEOUT_S, outages: Outages | None = None
) -> SharedRows:
    """Connects to nothing yet. `timeout_s` is for connecting and for each answer. Raises `ValueError` for an address
    that cannot be read.
    """
    # The pool is the client's own, so that closing one closes the other.
    return SharedRows(Redis.from_pool(_pool(address, dim=dim, timeout_s=timeout_s)), dim=dim, outages=outages)


def _pool(address: str, *, dim: int, timeout_s: float) -> ConnectionPool:
    most = _READ_AT_ONCE * (_value_bytes(dim) + _BESIDE_A_VALUE_BYTES) + _BESIDE_A_VALUE_BYTES
    # Answers to what is written, and refusals, are shorter than a few rows; of a small model they need not be.
    return open_pool(address, timeout_s=timeout_s, max_answer_bytes=max(most, _LEAST_ANSWER_BYTES))


def _value_bytes(dim: int) -> int:
    return _CHECKSUM_BYTES + _NORM.size + dim * _NUMBERS.itemsize


def _name(key: Key) -> str:
    return _PREFIX + key.hex()


def _checksum(key: Key, payload: bytes) -> bytes:
    return hashlib.sha256(key + payload).digest()[:_CHECKSUM_BYTES]
