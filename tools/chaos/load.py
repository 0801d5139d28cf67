"""Clients that keep count: every request ends as an answer, as lost, or as never sent; every vector is checked."""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

import numpy as np

from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.chaos.engine import right_vector
from tools.testbed.target import Body, signed_batch, signed_image, signed_text

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 100.0


@dataclass(frozen=True, slots=True)
class Question:
    """What a client asks, and the texts that name the right vectors, in order; without names nothing is right."""

    path: str
    body: Body
    names: tuple[str, ...] = ()

    def request(self) -> bytes:
        """The bytes that are sent."""
        body = json.dumps(self.body).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: pod\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def text_question(text: str) -> Question:
    return Question(EMBED_TEXT, signed_text(text), (text,))


def image_question(url: str, *names: str) -> Question:
    return Question(EMBED_IMAGE, signed_image(url), names)


def batch_question(urls: Sequence[str], names: Sequence[str]) -> Question:
    return Question(EMBED_IMAGE_BATCH, signed_batch(list(urls)), tuple(names))


@dataclass(slots=True)
class Tally:
    """`lost`: sent on an open connection, and nothing came back. `unsent`: nobody was there to connect to."""

    codes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    unsent: int = 0
    wrong: int = 0
    refusals_ms: list[float] = field(default_factory=list)
    answers_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        return sum(self.statuses.values()) + self.lost

    @property
    def accepted(self) -> int:
        """Requests with a vector: what was not refused, and did not fail."""
        return self.statuses[200]

    @property
    def goodput(self) -> float:
        """Vectors per second."""
        return self.accepted / self.seconds if self.seconds else 0.0

    @property
    def refusal_p50_ms(self) -> float:
        return percentile(self.refusals_ms, 50)


def percentile(values: list[float], rank: float) -> float:
    """0.0 of nothing."""
    return float(np.percentile(values, rank)) if values else 0.0


class Client:
    """One kept-alive connection."""

    def __init__(self, base_url: str, tally: Tally) -> None:
        self._host = urlsplit(base_url).hostname or ""
        self._port = urlsplit(base_url).port or 80
        self._tally = tally
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, text: str) -> None:
        """Send one text and take down what came of it."""
        await self.put(text_question(text))

    async def put(self, question: Question) -> None:
        """Send a question and take down what came of it."""
        streams = await self._connected()
        if streams is None:
            self._tally.unsent += 1
            return
        started_s = time.monotonic()
        try:
            status, body = await asyncio.wait_for(_exchange(streams, question), _ANSWER_TIMEOUT_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            self._tally.lost += 1
            self.close()
            return
        self._take_down(question, status, body, (time.monotonic() - started_s) * 1000)

    async def send_and_vanish(self, text: str) -> None:
        """Send one text and close the connection without waiting."""
        streams = await self._connected()
        if streams is not None:
            streams[1].write(text_question(text).request())
            with suppress(OSError):
                await streams[1].drain()
            await asyncio.sleep(0.01)
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            opening = asyncio.open_connection(self._host, self._port)
            with suppress(OSError, TimeoutError):
                self._streams = await asyncio.wait_for(opening, _CONNECT_TIMEOUT_S)
        return self._streams

    def _take_down(self, question: Question, status: int, body: bytes, taken_ms: float) -> None:
        tally = self._tally
        tally.statuses[status] += 1
        answer = json.loads(body)
        if status == 200:
            tally.answers_ms.append(taken_ms)
            self._check(question, answer.get("results", [answer]))
            return
        tally.codes[answer["error"]["code"]] += 1
        if answer["error"]["code"] in ("OVERLOADED", "NOT_READY"):
            tally.refusals_ms.append(taken_ms)

    def _check(self, question: Question, results: list[Body]) -> None:
        """Every vector of an answer; an item's error counts as a request's does."""
        for name, result in zip(question.names or [None] * len(results), results, strict=True):
            if "error" in result:
                self._tally.codes[result["error"]["code"]] += 1
            elif name is not None:
                self._tally.wrong += not _is_right(name, result["embedding"])


async def _exchange(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], question: Question
) -> tuple[int, bytes]:
    reader, writer = streams
    writer.write(question.request())
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    body = await reader.readexactly(length)
    if "connection: close" in head:
        writer.close()
        await reader.read()
    return int(head.split()[1]), body


def _is_right(text: str, embedding: list[float]) -> bool:
    right = right_vector(text)
    return all(
        math.isclose(value, float(expected), abs_tol=1e-5)
        for value, expected in zip(embedding, right / np.linalg.norm(right), strict=True)
    )


_numbers = count()


def next_text() -> str:
    """Eight digits that no other request of this process has."""
    return f"{next(_numbers):08d}"


def next_text_question() -> Question:
    return text_question(next_text())


async def closed_loop(
    base_url: str,
    tally: Tally,
    *,
    clients: int,
    until: Callable[[], bool],
    questions: Callable[[], Question] = next_text_question,
) -> None:
    """Each client sends its next request when its last is answered."""

    async def work() -> None:
        client = Client(base_url, tally)
        while not until():
            unsent = tally.unsent
            await client.put(questions())
            # A real client waits before it tries again, and so a dead pod is not met with a storm.
            await asyncio.sleep(0.05 if tally.unsent > unsent else 0)
        client.close()

    started_s = time.monotonic()
    await asyncio.gather(*(work() for _ in range(clients)))
    tally.seconds += time.monotonic() - started_s


async def open_loop(base_url: str, tally: Tally, *, rate: float, seconds: float, connections: int = 200) -> None:
    """`rate` requests per second, whatever comes back."""
    due: asyncio.Queue[str | None] = asyncio.Queue()

    async def work() -> None:
        client = Client(base_url, tally)
        while (text := await due.get()) is not None:
            await client.ask(text)
        client.close()

    workers = [asyncio.create_task(work()) for _ in range(connections)]
    started_s = time.monotonic()
    sent = 0
    while (elapsed_s := time.monotonic() - started_s) < seconds:
        while sent < rate * elapsed_s:
            due.put_nowait(next_text())
            sent += 1
        await asyncio.sleep(0.005)
    for _ in workers:
        due.put_nowait(None)
    await asyncio.gather(*workers)
    tally.seconds += time.monotonic() - started_s


@asynccontextmanager
async def background_load(
    base_url: str, tally: Tally, *, clients: int, questions: Callable[[], Question] = next_text_question
) -> AsyncIterator[None]:
    """A closed loop that runs while the block does; what was sent by its end is still answered."""
    ended = False
    loop = closed_loop(base_url, tally, clients=clients, until=lambda: ended, questions=questions)
    task = asyncio.create_task(loop)
    try:
        yield
    finally:
        ended = True
        await task
