"""Sockets whose every wait ends at one deadline, connected to one given address."""

import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

from core.deadline import Deadline
from core.images.fetch.addresses import IpAddress

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# How soon a download that nobody waits for any more is given up: its request holds a place as long.
_LOOK_UP_S = 1.0


class TimedSocket(socket.socket):
    """Gives every receive only the time that is left until `ends`.

    A plain socket timeout starts anew with each receive, and http.client receives as often as a header or a
    body takes: one byte a second would go on for ever. All its reading comes through `recv_into`, which makes
    this the one place that bounds status line, headers, chunk sizes and body.
    """

    ends = Deadline(0.0)
    heard = False  # whether anything was received since `ends` was last set

    def start_clock(self, ends: Deadline) -> None:
        self.ends = ends
        self.heard = False
        self.settimeout(time_left_s(ends))

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0) -> int:
        while True:
            left_s = time_left_s(self.ends)
            self.settimeout(min(left_s, _LOOK_UP_S))
            try:
                received = super().recv_into(buffer, nbytes or memoryview(buffer).nbytes, flags)
            except TimeoutError:
                continue
            self.heard = self.heard or received > 0
            return received


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """The same over TLS; made by `SSLContext.wrap_socket` only."""


# Takes a checked address, a port and the seconds it may take; raises OSError.
Connect = Callable[[IpAddress, int, float], TimedSocket]


def time_left_s(ends: Deadline) -> float:
    """Raises `TimeoutError` instead of zero, which would mean "do not wait" to a socket."""
    left_s = ends.remaining_s()
    if left_s == 0.0:
        raise TimeoutError("the deadline has passed")
    return left_s


def connect_to(address: IpAddress, port: int, timeout_s: float) -> TimedSocket:
    """Connect to exactly this address."""
    sock = TimedSocket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect((str(address), port))
        _require_peer(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _require_peer(sock: socket.socket, address: IpAddress) -> None:
    """A second net under the check: connecting to 0.0.0.0, for one, ends at 127.0.0.1."""
    if ip_address(sock.getpeername()[0]) != address:
        raise ConnectionError("connected to another address than the checked one")


def make_tls_context(ca_file: str | None) -> ssl.SSLContext:
    """TLS 1.2 or later that verifies certificate and name, by `ca_file` or else the system's authorities."""
    # Not ssl.create_default_context(): that one writes session keys to the file that SSLKEYLOGFILE names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = TimedTlsSocket
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


def start_tls(sock: TimedSocket, context: ssl.SSLContext, host: str, ends: Deadline) -> TimedTlsSocket:
    """Shake hands and verify that the peer is `host`, a name or an address; closes the socket on failure."""
    try:
        sock.start_clock(ends)
        # The handshake counts its timeout once from its start, so the socket's timeout bounds all of it.
        return cast("TimedTlsSocket", context.wrap_socket(sock, server_hostname=host))
    except BaseException:
        sock.close()
        raise
