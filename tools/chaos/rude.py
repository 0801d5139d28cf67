"""What rude connections do to a pod: they never pause, never end, never read. Unsigned, so anybody could.

Beside each a good client asks for vectors, and a probe for /livez; the attackers have a process of their own.
"""

import multiprocessing
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from shared_auth.contract import EMBED_IMAGE_BATCH, EMBED_TEXT
from tools.chaos.load import closed_loop, percentile
from tools.chaos.probe import probed
from tools.chaos.scenarios import Report, chaos_pod, for_seconds, run, workers
from tools.testbed.raw_http import connected, head

GOOD_CLIENTS = 4
LIVEZ_MS = 50.0

_MEBIBYTE = 1_048_576
_BRACES = b'{"a":[' + b'{"":{}},' * 131_000 + b"0]}"


@dataclass(frozen=True, slots=True)
class Rudeness:
    """So many connections send `begin`, then `again` for as long as they are let, then connect anew. What is large is
    made where it is sent.
    """

    connections: int
    begin: bytes
    again: bytes | Callable[[], bytes]
    reads: bool = True


def _full_batch() -> bytes:
    """Sixteen images of ten mebibytes."""
    image = b"A" * (10 * _MEBIBYTE // 3 * 4)
    items = [b'{"image_b64":"%s","request_id":"%d"}' % (image, number) for number in range(16)]
    body = b'{"items":[%s]}' % b",".join(items)
    return head(EMBED_IMAGE_BATCH, f"Content-Length: {len(body)}") + body


ATTACKS: Mapping[str, Rudeness] = {
    "pipelined /livez": Rudeness(1, b"", head("/livez", method="GET") * 500),
    "endless refused bodies": Rudeness(8, head(EMBED_TEXT, f"Content-Length: {1 << 40}"), b" " * _MEBIBYTE),
    "endless chunks": Rudeness(
        8, head(EMBED_TEXT, "Transfer-Encoding: chunked"), b"10000\r\n" + b" " * 65_536 + b"\r\n"
    ),
    "mebibytes of braces": Rudeness(60, b"", head(EMBED_TEXT, f"Content-Length: {len(_BRACES)}") + _BRACES),
    "batches of images of ten mebibytes": Rudeness(4, b"", _full_batch),
    "answers left unread": Rudeness(8, b"", head("/metrics", method="GET") * 500, reads=False),
}


def hub_attack(name: str, seconds: float) -> list[Report]:
    """A good client beside one kind of rude ones."""
    report = Report(name)
    with chaos_pod({"CHAOS_ITEM_S": "0.001"}) as pod:
        before = workers(pod)
        with _attackers(pod.base_url, name), probed(pod.base_url, pod.process.pid, path="/livez") as report.vitals:
            run(closed_loop(pod.base_url, report.tally, clients=GOOD_CLIENTS, until=for_seconds(seconds)))
        report.require("no process of the pod ends", before == workers(pod))
    p99_ms = percentile(report.vitals.health_ms, 99)
    report.notes = [f"goodput {report.tally.goodput:.0f}/s", f"/livez p99 {p99_ms:.0f} ms"]
    report.require_all_answered()
    report.require(f"/livez p99 under {LIVEZ_MS:.0f} ms", p99_ms < LIVEZ_MS)
    return [report]


@contextmanager
def _attackers(base_url: str, name: str) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_attack, args=(theirs, base_url, name), daemon=True)
    process.start()
    try:
        assert ours.recv() == "begun"
        yield
    finally:
        process.terminate()
        process.join()


def _attack(connection: Connection, base_url: str, name: str) -> None:
    rudeness = ATTACKS[name]
    begun = threading.Semaphore(0)
    again = rudeness.again if isinstance(rudeness.again, bytes) else rudeness.again()
    for _ in range(rudeness.connections):
        threading.Thread(target=_be_rude, args=(base_url, rudeness, again, begun), daemon=True).start()
    for _ in range(rudeness.connections):
        begun.acquire()
    connection.send("begun")
    threading.Event().wait()


def _be_rude(base_url: str, rudeness: Rudeness, again: bytes, begun: threading.Semaphore) -> None:
    while True:
        with suppress(OSError), connected(base_url) as client:
            if rudeness.reads:
                threading.Thread(target=_read_all, args=(client,), daemon=True).start()
            client.sendall(rudeness.begin)
            while True:
                client.sendall(again)
                begun.release()


def _read_all(client: socket.socket) -> None:
    with suppress(OSError):
        while client.recv(_MEBIBYTE):
            pass
