"""The one spelling of a host, shared by URLs and the allow-list; knows nothing of addresses being public."""

import re

from ada_url import URL

MAX_NAME_CHARS = 253  # RFC 1035
MAX_PORT = 65535

# What ends a host in a URL must not hide in an entry of the allow-list.
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]*\]|[^\[\]@:/?#\\\s]+)(?::(?P<port>[0-9]{1,5}))?")
# Browsers also take symbols here; no name in DNS has them.
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# Under which registries of countries sell names, as `example.co.uk`: not all there are, but most of those in use.
_SECOND_LEVELS = frozenset({"ac", "co", "com", "edu", "gob", "gov", "ne", "net", "or", "org"})
_COUNTRY_CHARS = 2


def split_authority(text: str) -> tuple[str, int | None]:
    """Split `host`, `host:port` or `[v6]:port` into the canonical host and the port, None when absent.

    Raises `ValueError` with a message that does not repeat the text.
    """
    parts = _AUTHORITY.fullmatch(text)
    if parts is None:
        raise ValueError("the host or port cannot be understood")
    return _canonical_host(parts["host"]), None if parts["port"] is None else checked_port(parts["port"])


def checked_host(host: str) -> str:
    """Return a host of a parsed URL: a lower-case ASCII name without its last dot, a dotted IPv4 address, or a short
    IPv6 address without brackets.

    Raises `ValueError` with a message that does not repeat the text.
    """
    if host.startswith("["):
        return host[1:-1]
    name = host.removesuffix(".")
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError("the host is not a valid name")
    return name


def checked_port(digits: str) -> int:
    """Raises `ValueError` for port 0 and above the highest."""
    port = int(digits)
    if not 0 < port <= MAX_PORT:
        raise ValueError("the port is out of range")
    return port


def site_of(host: str) -> str:
    """Return the part of a name that somebody has registered, as far as can be told without a list of all suffixes."""
    labels = host.split(".")
    by_country = len(labels[-1]) == _COUNTRY_CHARS and labels[-2:][0] in _SECOND_LEVELS
    return ".".join(labels[-3 if by_country else -2 :])


def _canonical_host(text: str) -> str:
    try:
        hostname = URL(f"http://{text}/").hostname
    except ValueError as error:
        raise ValueError("the host is not a valid name or address") from error
    return checked_host(hostname)
