"""The one spelling of a host, shared by URLs and the allow-list; knows nothing of addresses being public."""

import ipaddress
import re

import idna

MAX_NAME_CHARS = 253  # RFC 1035; also bounds what IDNA has to chew on
MAX_PORT = 65535

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]*\]|[^\[\]@:]*)(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# The rule of the WHATWG URL standard: such a host is an IPv4 address or nothing. Without it getaddrinfo reads
# 2130706433, 0x7f.1 and 127.1 as 127.0.0.1.
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$")


def split_authority(text: str) -> tuple[str, int | None]:
    """Split `host`, `host:port` or `[v6]:port` into the canonical host and the port, None when absent.

    Raises `ValueError` with a message that does not repeat the text.
    """
    parts = _AUTHORITY.fullmatch(text)
    if parts is None:
        raise ValueError("the host or port cannot be understood")
    return canonical_host(parts["host"]), None if parts["port"] is None else _port(parts["port"])


def canonical_host(text: str) -> str:
    """The lower-case ASCII name, the dotted IPv4 address, or the short IPv6 address without brackets.

    Raises `ValueError` with a message that does not repeat the text.
    """
    if text.startswith("["):
        return str(_parsed_v6(text[1:-1]))
    name = _ascii_name(text).removesuffix(".")
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError("the host is not a valid name")
    if _ENDS_IN_NUMBER.search(name):
        return str(_parsed_v4(name))
    return name


def _port(digits: str) -> int:
    port = int(digits)
    if not 0 < port <= MAX_PORT:
        raise ValueError("the port is out of range")
    return port


def _ascii_name(text: str) -> str:
    if text.isascii():
        return text.lower()
    if len(text) > MAX_NAME_CHARS:
        raise ValueError("the host is not a valid name")
    try:
        return idna.encode(text, uts46=True).decode("ascii").lower()
    except UnicodeError as error:
        raise ValueError("the host is not a valid international name") from error


def _parsed_v4(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as error:
        raise ValueError("a numeric host must be four decimal numbers") from error


def _parsed_v6(text: str) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError as error:
        raise ValueError("the host is not a valid IPv6 address") from error
