"""Sockets whose every wait ends at one deadline, connected to one given address."""

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar

from core.deadline import Deadline
from core.images.fetch.addresses import IpAddress
from core.images.fetch.budget import next_wait_s

Data = TypeVar("Data")

# Takes a checked address, a port and when it must be done; raises OSError.
Connect = Callable[[IpAddress, int, Deadline], socket.socket]


class TimedSocket:
    """Gives every send and receive, plain or TLS, only the time that is left until one deadline.

    A plain socket timeout starts anew with each receive, and there are as many as a head or a body takes: one
    byte a second would go on for ever. All sending and receiving comes through here.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._timeout_s: float | None = None
        self._ends = Deadline(0.0)
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)

    def start_clock(self, ends: Deadline) -> None:
        self._ends = ends

    def send(self, data: bytes) -> None:
        """All of it; raises `OSError`, `TimeoutError` among them."""
        while data:
            data = data[self._in_time(self._sock.send, data) :]

    def receive_into(self, view: memoryview) -> int:
        """What there is, at least a byte; 0 at the end of the stream. Raises as `send`."""
        return self._in_time(self._sock.recv_into, view)

    def has_something(self) -> bool:
        """Whether bytes, or the end of the stream, came already."""
        waiting_in_tls = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0
        return waiting_in_tls or bool(self._readable.poll(0))

    def close(self) -> None:
        self._sock.close()

    def _in_time(self, call: Callable[[Data], int], data: Data) -> int:
        while True:
            self._set_timeout(next_wait_s(self._ends))
            try:
                return call(data)
            except TimeoutError:
                continue

    def _set_timeout(self, timeout_s: float) -> None:
        if timeout_s != self._timeout_s:  # a system call, and mostly it is the same
            self._sock.settimeout(timeout_s)
            self._timeout_s = timeout_s


def connect_to(address: IpAddress, port: int, ends: Deadline) -> socket.socket:
    """Connect to exactly this address."""
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        _connect(sock, (str(address), port), ends)
        _require_peer(sock, address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, target: tuple[str, int], ends: Deadline) -> None:
    """Leaves the socket non-blocking: with a timeout, a connection that has begun could not be waited for again."""
    sock.setblocking(False)
    code = sock.connect_ex(target)
    if code == errno.EINPROGRESS:
        decided = select.poll()
        decided.register(sock, select.POLLOUT)
        while not decided.poll(next_wait_s(ends) * 1000):
            continue
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


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
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


def start_tls(sock: socket.socket, context: ssl.SSLContext, host: str, ends: Deadline) -> ssl.SSLSocket:
    """Shake hands and verify that the peer is `host`, a name or an address; closes the socket on failure."""
    try:
        # The descriptor goes over to the new one, which is from now on what is to be closed.
        sock = tls = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        _shake_hands(tls, ends)
    except BaseException:
        sock.close()
        raise
    return tls


def _shake_hands(tls: ssl.SSLSocket, ends: Deadline) -> None:
    """A handshake counts its timeout once from its start, however it drips, and goes on where the last one stopped."""
    while True:
        tls.settimeout(next_wait_s(ends))
        try:
            tls.do_handshake()
        except TimeoutError:
            continue
        return
