"""Mutated requests through a real pod: bodies, headers and the bytes of HTTP itself."""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psutil

from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.chaos.scenarios import chaos_pod
from tools.fuzz.mutate import mutated
from tools.fuzz.report import FuzzReport
from tools.testbed.process import PodProcess
from tools.testbed.target import signed_batch, signed_image, signed_text

_CLIENTS = 16
_ANSWER_TIMEOUT_S = 60.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_URL = "http://127.0.0.1:9/a.png?X-Amz-Signature=fuzzed"

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, "", " ", "\ud800", "\x00", "a" * 5000, "\u202e", [], {}, [[]], {"a": {}},
    ["x"] * 40, {"ts": "1703001234", "sig": "0" * 64}, {"ts": 1703001234, "sig": "\u0660" * 64}, "http://[::1]/",
    "http://169.254.169.254/", "file:///etc/passwd", "http://a\\@b/",
)  # fmt: skip
_PATHS = (EMBED_TEXT, EMBED_IMAGE, EMBED_IMAGE_BATCH, "/health", "/livez", "/v1/embed/video", "/%00", "/..//")
_HEADERS = (
    "X-Request-Timeout-Ms: 100", "X-Request-Timeout-Ms: \u0661", "Content-Type: text/plain", "Expect: 100-continue",
    "X-Request-Timeout-Ms: -1", "X-Forwarded-For: 127.0.0.1", "Content-Encoding: gzip", "Cookie: " + "a" * 3000,
)  # fmt: skip


def fuzz_requests(count: int, seed: int) -> FuzzReport:
    """Send `count` mutated requests to a pod with the scripted engine."""
    report = FuzzReport()
    with chaos_pod({"CHAOS_ITEM_S": "0"}) as pod:
        before = {child.pid for child in psutil.Process(pod.process.pid).children()}
        asyncio.run(_send_all(pod, report, range(min(count, 1000)), seed))
        warm_mb = _rss_mb(pod)
        asyncio.run(_send_all(pod, report, range(1000, count), seed))
        report.grown_mb = _rss_mb(pod) - warm_mb
        after = {child.pid for child in psutil.Process(pod.process.pid).children()}
        report.deaths = len(before - after)
    return report


def _rss_mb(pod: PodProcess) -> float:
    return sum(child.memory_info().rss for child in psutil.Process(pod.process.pid).children()) / 1e6


async def _send_all(pod: PodProcess, report: FuzzReport, numbers: range, seed: int) -> None:
    url = urlsplit(pod.base_url)
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            data, is_http = make_request(random.Random(f"{seed}-{number}"))  # noqa: S311 - seeds, not secrecy
            came = await outcome(url.hostname or "", url.port or 80, data)
            report.outcomes[came] += 1
            # Bytes that are no HTTP may be answered by closing the connection.
            if came.startswith("500") or (came == "no answer" and is_http):
                report.faults.append(f"request {number} of seed {seed}: {came}")

    await asyncio.gather(*(work() for _ in range(_CLIENTS)))


async def outcome(host: str, port: int, data: bytes) -> str:
    """Send the bytes and nothing more; the status and code of the answer, or "no answer"."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return "500 no connection"
    answer = b""
    with suppress(OSError, TimeoutError):
        writer.write(data)
        # A request that promises more than it sends is ended here, not by the pod's patience.
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), _ANSWER_TIMEOUT_S)
    writer.close()
    return _described(answer)


def _described(answer: bytes) -> str:
    head, _, body = answer.removeprefix(_CONTINUE).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1."):
        return "no answer"
    status = head.split(b" ", 2)[1].decode()
    with suppress(ValueError, KeyError, TypeError):
        return f"{status} {json.loads(body)['error']['code']}"
    return status


def make_request(rng: random.Random) -> tuple[bytes, bool]:
    """The bytes of a spoiled request, and whether they are still HTTP."""
    body = rng.choice((signed_text("00000001"), signed_image(_URL), signed_batch([_URL, f"{_URL}2"])))
    spoiled = _spoiled(body, rng)
    data = (
        json.dumps(spoiled).encode("ascii") if rng.random() < 0.7 else mutated(json.dumps(body).encode(), b'"{[', rng)
    )
    length = len(data) if rng.random() < 0.95 else rng.choice((0, len(data) // 2, 10**10))
    headers = ["Host: pod", "Connection: close", f"Content-Length: {length}"]
    headers += rng.sample(_HEADERS, rng.randrange(3))
    path = rng.choice(_PATHS[:3]) if rng.random() < 0.9 else rng.choice(_PATHS)
    method = "POST" if rng.random() < 0.95 else rng.choice(("GET", "PUT", "BREW"))
    whole = "\r\n".join([f"{method} {path} HTTP/1.1", *headers, "", ""]).encode() + data
    if rng.random() < 0.1:
        return mutated(whole, b"\r\n\r\nTransfer-Encoding: chunked\r\n", rng), False
    return whole, length == len(data)


def _spoiled(value: Any, rng: random.Random) -> Any:  # noqa: ANN401 - JSON
    """The value with some member, anywhere in it, replaced, dropped or added."""
    if rng.random() < 0.15:
        return rng.choice(_VALUES)
    if isinstance(value, dict) and value:
        name = rng.choice(sorted(value))
        rest = {key: member for key, member in value.items() if key != name}
        return rest if rng.random() < 0.1 else rest | {name: _spoiled(value[name], rng)}
    if isinstance(value, list) and value:
        position = rng.randrange(len(value))
        return [*value[:position], _spoiled(value[position], rng), *value[position + 1 :]]
    return value if rng.random() < 0.3 else rng.choice(_VALUES)
