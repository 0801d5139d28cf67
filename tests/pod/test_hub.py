"""One rude client beside a good one, at a real pod: nobody keeps the hub, and nobody keeps a connection, for ever."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest
import requests

from shared_auth.contract import EMBED_TEXT
from tools.testbed.process import GUNICORN, PodProcess, pod_process
from tools.testbed.raw_http import PATIENCE_S, attack, connected, head, read_answer, send_until_ended
from tools.testbed.target import PodTarget, signed_text

SOON_S = 30.0
GOOD_ANSWERS = 50
GET_LIVEZ = head("/livez", method="GET")
CHUNK = b"10000\r\n" + b" " * 65_536 + b"\r\n"
BRACES = b'{"a":[' + b'{"":{}},' * 131_000 + b"0]}"


@pytest.fixture(scope="module")
def impatient() -> Iterator[PodProcess]:
    """A pod that gives a drain two seconds, and so heads and unread answers not more."""
    settings = {"CHAOS_ITEM_S": "0", "DRAIN_TIMEOUT_S": "2"}
    with pod_process(settings, command=[*GUNICORN, "tools.chaos.wsgi:app"]) as process:
        yield process


def good_answers(base_url: str) -> list[int]:
    """The statuses that a client gets which asks for health and for vectors, one after the other."""
    statuses = []
    with requests.Session() as session:
        for number in range(GOOD_ANSWERS):
            statuses.append(session.get(base_url + "/livez", timeout=SOON_S).status_code)
            answer = session.post(base_url + EMBED_TEXT, json=signed_text(f"text {number}"), timeout=SOON_S)
            statuses.append(answer.status_code)
    return statuses


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        pytest.param(b"", GET_LIVEZ * 500, id="pipelined health"),
        pytest.param(b"", (head(EMBED_TEXT, "Content-Length: 2") + b"{}") * 500, id="pipelined operations"),
        pytest.param(b"", head(EMBED_TEXT, f"Content-Length: {len(BRACES)}") + BRACES, id="a megabyte of braces"),
    ],
)
def test_good_client_beside_one_that_never_pauses(pod: PodProcess, begin: bytes, again: bytes) -> None:
    """Whoever always has something to read takes turns with those who wait for their answer."""
    with attack(pod.base_url, begin, again) as sent:
        statuses = good_answers(pod.base_url)
        goes_on = sent()

    assert [200] * 2 * GOOD_ANSWERS == statuses
    assert goes_on > 0


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(head("/v1/embed/video", "Transfer-Encoding: chunked"), id="unknown path"),
        pytest.param(head(EMBED_TEXT, "Transfer-Encoding: chunked"), id="too large, found while reading"),
        pytest.param(head("/livez", "Transfer-Encoding: chunked", method="GET"), id="GET with a body"),
        pytest.param(head(EMBED_TEXT, "Content-Length: 1000000000000"), id="too large by its length"),
    ],
)
def test_endless_body_is_answered_and_ended(strict_pod: PodProcess, begin: bytes) -> None:
    """A body that nobody wants is not read to its end: the answer says that the connection closes, and it does."""
    with connected(strict_pod.base_url) as client:
        answers = []
        reader = threading.Thread(target=lambda: answers.append(read_answer(client)))
        reader.start()
        send_until_ended(client, begin, CHUNK)
        reader.join(SOON_S)

    assert "close" == answers[0].headers["connection"]
    assert [200] * 2 * GOOD_ANSWERS == good_answers(strict_pod.base_url)


def test_good_client_beside_endless_bodies(pod: PodProcess) -> None:
    """While several send bodies without end, and come again when they are ended, others are served."""
    begin = head("/v1/embed/video", "Transfer-Encoding: chunked")
    with attack(pod.base_url, begin, CHUNK), attack(pod.base_url, begin, CHUNK):
        statuses = good_answers(pod.base_url)

    assert [200] * 2 * GOOD_ANSWERS == statuses


def test_large_refused_body_still_gets_its_answer(strict_pod: PodProcess) -> None:
    """A client that sends all of a body which is too large by megabytes reads why, and not a reset connection."""
    response = PodTarget(strict_pod.base_url).post(EMBED_TEXT, b" " * 8_000_000)

    assert (413, "BODY_TOO_LARGE", "close") == (
        response.status_code,
        response.json()["error"]["code"],
        response.headers["Connection"],
    )


def test_connection_that_was_read_stays_open(pod: PodProcess) -> None:
    """A refusal after the whole body was read costs the client no new connection, chunked or not."""
    chunked = head(EMBED_TEXT, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"
    with connected(pod.base_url) as client:
        client.sendall(head(EMBED_TEXT, "Content-Length: 2") + b"{}" + chunked + GET_LIVEZ)
        answers = [read_answer(client) for _ in range(3)]

    assert [422, 422, 200] == [answer.status for answer in answers]
    assert ["keep-alive"] * 3 == [answer.headers["connection"] for answer in answers]


def test_slow_head_is_cut_off(impatient: PodProcess) -> None:
    """A head that trickles in has no more time than an idle connection."""
    with connected(impatient.base_url) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        client.settimeout(0.05)
        ended = False
        for _ in range(int(PATIENCE_S / 0.05)):
            try:
                client.sendall(b"X: y\r\n")
                ended = client.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
            break

    assert ended


@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
def test_connections_without_a_request_keep_nobody_out(at_once: bool) -> None:
    """All that a pod takes are held by clients that send half a head: who has waited longest goes, and hardly more of
    them than others need room. Also where they come faster than it reads.
    """
    # So many for each request that may be worked on; none is given up for its time.
    command = [*GUNICORN, "--keep-alive", "600", "pod.wsgi:app"]
    with pod_process({"MAX_CONCURRENT_REQUESTS": "1"}, command=command) as pod, ExitStack() as stack:
        [worker] = psutil.Process(pod.process.pid).children()
        if at_once:
            worker.suspend()
        holders = [stack.enter_context(connected(pod.base_url)) for _ in range(16)]
        for holder in holders:
            holder.sendall(GET_LIVEZ[:-2])
        worker.resume()
        newcomers = [stack.enter_context(connected(pod.base_url)) for _ in range(4)]
        for newcomer in newcomers:
            newcomer.sendall(GET_LIVEZ)
        answers = [read_answer(newcomer) for newcomer in newcomers]
        pod.wait_for_log("all connections are taken")
        went = [ends_with(holder, GET_LIVEZ[-2:]) for holder in holders]

    assert [200] * 4 == [answer.status for answer in answers]
    assert sorted(went, reverse=True) == went
    # One for the last of the holders, one for each newcomer, and some that a look in that moment has taken.
    assert 1 <= sum(went) <= 8


def ends_with(client: socket.socket, data: bytes) -> bool:
    """Whether the other side has ended the connection, and so does not answer what is sent."""
    with suppress(ConnectionError):
        client.sendall(data)
        return not client.recv(1)
    return True


def test_client_that_does_not_read_is_cut_off(impatient: PodProcess) -> None:
    """Answers that nobody takes end the connection, and with it what they hold."""
    with connected(impatient.base_url) as client:
        send_until_ended(client, b"", head("/metrics", method="GET") * 100)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"xyz\r\n", id="a size that is no number"),
        pytest.param(b"2\r\n{}xx", id="no line end after the data"),
        pytest.param(b"2;\x00\r\n{}\r\n0\r\n\r\n", id="extension"),
        pytest.param(b"2\r\n{}\r\n0\r\nno colon\r\n\r\n", id="trailer"),
        pytest.param(b"2" * 10_000, id="a size without an end"),
    ],
)
def test_malformed_chunk(pod: PodProcess, body: bytes) -> None:
    """A body in pieces that do not fit is the caller's fault, and the last thing read from that connection."""
    with connected(pod.base_url) as client:
        client.sendall(head(EMBED_TEXT, "Transfer-Encoding: chunked") + body)
        answer = read_answer(client)

    assert (400, "INVALID_JSON", "close") == (answer.status, answer.code, answer.headers["connection"])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"hello\r\n\r\n", id="no request line"),
        pytest.param(b"G@T / HTTP/1.1\r\n\r\n", id="method"),
        pytest.param(b"GET / HTTP/3.0\r\n\r\n", id="version"),
        pytest.param(b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n", id="long request line"),
        pytest.param(head("/", "no colon"), id="header without a colon"),
        pytest.param(head("/", "Cookie: " + "a" * 10_000), id="long header"),
        pytest.param(head("/", *(f"H{number}: x" for number in range(200))), id="many headers"),
        pytest.param(head("/", "Content-Length: -1"), id="negative length"),
        pytest.param(head("/", "Content-Length: 1", "Content-Length: 2"), id="two lengths"),
        pytest.param(head("/", "Content-Length: 1", "Transfer-Encoding: chunked"), id="length and chunks"),
        pytest.param(head("/", "Transfer-Encoding: gzip"), id="encoding"),
        pytest.param(head("/", "Expect: the-unexpected"), id="expectation"),
        pytest.param(b"GET / HTTP/1.1\nHost: pod\n\n", id="bare line ends"),
    ],
)
def test_what_is_not_http(pod: PodProcess, data: bytes) -> None:
    """Whatever cannot be read is a 400 in the one shape of errors, with an id that is in the log, on a connection
    that ends."""
    with connected(pod.base_url) as client:
        client.sendall(data)
        answer = read_answer(client)
        rest = client.recv(1)

    assert (400, "INVALID_JSON", False) == (answer.status, answer.code, answer.body["error"]["retryable"])
    assert answer.headers["x-request-id"] == answer.body["error"]["request_id"]
    assert ("close", b"") == (answer.headers["connection"], rest)
    assert answer.body["error"]["request_id"] in pod.log()


@pytest.mark.parametrize(
    "framing",
    [pytest.param("Content-Length: 100", id="length"), pytest.param("Transfer-Encoding: chunked", id="chunks")],
)
def test_body_that_breaks_off(pod: PodProcess, framing: str) -> None:
    """A client that ends its sending in the middle of a body is told so, if it still listens; nothing has failed."""
    with connected(pod.base_url) as client:
        client.sendall(head(EMBED_TEXT, framing) + b"5\r\n{")
        client.shutdown(socket.SHUT_WR)
        answer = read_answer(client)

    assert (400, "INVALID_JSON") == (answer.status, answer.code)
    assert answer.body["error"]["request_id"] not in [line.get("request_id") for line in errors_of(pod)]


def errors_of(pod: PodProcess) -> list[dict[str, object]]:
    return [line for line in pod.log_lines() if line["level"] == "ERROR"]
