"""Downloads over TLS from a server with a certificate of the test's own authority."""

import pytest

from core.errors import DownloadError, DownloadTimeout
from core.images.fetch.fetcher import FetchLimits
from tests.core.images.fetch.certificates import Certificates, make_certificates
from tests.core.images.fetch.fakes import PUBLIC, Names, Wires, fetching, soon
from tests.core.images.fetch.servers import Visitor, answer, redirect, says, serve, serve_paths

IMAGE = bytes(range(256)) * 400
NAME = "images.test"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate for images.test and 127.0.0.1."""
    return make_certificates(tmp_path_factory.mktemp("tls"), name=NAME, address="127.0.0.1")


def test_name_is_verified_at_the_checked_address(certificates: Certificates) -> None:
    """The connection goes to the checked address, the certificate is that of the name; it is reused."""
    seen = []
    certificates.server.sni_callback = lambda sock, name, context: seen.append(name)
    with serve_paths({"/": answer(IMAGE)}, tls=certificates.server) as server:
        wires = Wires(server.port)
        with fetching(
            "", resolve=Names(images_test=[[PUBLIC]]), connect=wires, ca_file=certificates.authority_file
        ) as fetcher:
            bodies = [fetcher.fetch(f"https://{NAME}/", deadline=soon()) for _ in range(3)]

    assert (bodies, wires.addresses, seen, server.connections) == ([IMAGE] * 3, [PUBLIC], [NAME], 1)


def test_bytes_that_wait_inside_tls(certificates: Certificates) -> None:
    """What follows an answer within its last TLS record, which no poll shows, keeps the connection from reuse."""
    with (
        serve_paths({"/a.png": answer(IMAGE) + answer(b"smuggled")}, tls=certificates.server) as server,
        fetching(ca_file=certificates.authority_file) as fetcher,
    ):
        bodies = [fetcher.fetch(server.url(scheme="https"), deadline=soon()) for _ in range(2)]

    assert (bodies, server.connections) == ([IMAGE] * 2, 2)


def test_address_in_the_certificate(certificates: Certificates) -> None:
    """A URL with an address is verified against the certificate's addresses."""
    with (
        serve(says(answer(IMAGE)), tls=certificates.server) as server,
        fetching(ca_file=certificates.authority_file) as fetcher,
    ):
        body = fetcher.fetch(server.url(scheme="https"), deadline=soon())

    assert body == IMAGE


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        pytest.param("other.test", True, id="another-name"),
        pytest.param(NAME, False, id="unknown-authority"),
    ],
)
def test_bad_certificate(certificates: Certificates, host: str, trusted: bool) -> None:
    """A certificate for another name or of an unknown authority is final, also for exempt hosts."""
    names = Names(images_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    authority = certificates.authority_file if trusted else None
    with (
        serve(says(answer(IMAGE)), tls=certificates.server) as server,
        fetching(host, resolve=names, ca_file=authority) as fetcher,
        pytest.raises(DownloadError) as caught,
    ):
        fetcher.fetch(server.url(host=host, scheme="https"), deadline=soon())

    assert (caught.value.message, caught.value.retryable) == (
        "the certificate of the image's server is not valid",
        False,
    )


def test_server_without_tls() -> None:
    """A server that answers https with something else is final."""

    def script(visitor: Visitor) -> None:
        visitor.sock.recv(4096)
        visitor.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with (
        serve(script) as server,
        fetching() as fetcher,
        pytest.raises(DownloadError, match="TLS") as caught,
    ):
        fetcher.fetch(server.url(scheme="https"), deadline=soon())

    assert not caught.value.retryable


def test_downgrade(certificates: Certificates) -> None:
    """A redirect from https to http is not followed."""
    with (
        serve(says(redirect("http://127.0.0.1/")), tls=certificates.server) as server,
        fetching(ca_file=certificates.authority_file) as fetcher,
        pytest.raises(DownloadError, match="from https to http") as caught,
    ):
        fetcher.fetch(server.url(scheme="https"), deadline=soon())

    assert not caught.value.retryable


def test_upgrade(certificates: Certificates) -> None:
    """A redirect from http to https is followed."""
    with (
        serve(says(answer(IMAGE)), tls=certificates.server) as secure,
        serve(says(redirect(secure.url(scheme="https")))) as plain,
        fetching(ca_file=certificates.authority_file) as fetcher,
    ):
        body = fetcher.fetch(plain.url(), deadline=soon())

    assert body == IMAGE


def test_slow_handshake_is_waited_for(certificates: Certificates) -> None:
    """A handshake goes on where it stopped when the server is silent for longer than one look at the deadline."""

    def script(visitor: Visitor) -> None:
        visitor.stopping.wait(1.3)
        with certificates.server.wrap_socket(visitor.sock, server_side=True) as visitor.sock:
            says(answer(IMAGE))(visitor)

    with serve(script) as server, fetching(ca_file=certificates.authority_file) as fetcher:
        body = fetcher.fetch(server.url(scheme="https"), deadline=soon())

    assert body == IMAGE


def test_slow_body(certificates: Certificates) -> None:
    """A body that drips over TLS ends at the limit too."""

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        visitor.drip(b"a", pause_s=0.02)

    limits = FetchLimits(max_bytes=1_000_000, timeout_s=0.5)
    with (
        serve(script, tls=certificates.server) as server,
        fetching(limits=limits, ca_file=certificates.authority_file) as fetcher,
        pytest.raises(DownloadTimeout),
    ):
        fetcher.fetch(server.url(scheme="https"), deadline=soon())


def test_body_cut_off(certificates: Certificates) -> None:
    """A TLS connection that ends within the body can be tried again later."""
    with (
        serve(says(answer(IMAGE)[:1000]), tls=certificates.server) as server,
        fetching(ca_file=certificates.authority_file) as fetcher,
        pytest.raises(DownloadError) as caught,
    ):
        fetcher.fetch(server.url(scheme="https"), deadline=soon())

    assert caught.value.retryable
