"""A stranger's URL, read once as browsers read it; everything afterwards uses only the normal form.

Two parsers that read one text differently (`http://evil\\@good/`) are how a checked URL becomes another one: policy,
name lookup, connection and request line all take their part from the same `Url`.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar

from ada_url import URL

from core.errors import UrlNotAllowed
from core.images.fetch.hosts import checked_host, checked_port
from shared_auth.contract import MAX_URL_CHARACTERS

# Escaping makes a URL up to twelve times as long, and servers take request lines of 8 to 16 kB.
MAX_NORMAL_URL_CHARS = 16_384

_NOT_ASCII = re.compile(rb"[\x80-\xff]")


@dataclass(frozen=True)
class Url:
    """Made by this module only. `host` is canonical, without brackets; `target` is path and query, visible ASCII."""

    scheme: str
    host: str
    port: int
    target: str

    DEFAULT_PORTS: ClassVar[dict[str, int]] = {"http": 80, "https": 443}

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two URLs share when one connection can serve both."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """The `Host` header: brackets around IPv6, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def literal_address(self) -> IPv4Address | IPv6Address | None:
        """The address, when the host is one and not a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(text: str) -> Url:
    """Parse an absolute http or https URL by the WHATWG URL standard; raises `UrlNotAllowed` for any other text.

    Escapes in path and query stay as they were written, because a presigned URL is signed as it was written.
    """
    return _normal(text, None)


def resolve_location(base: Url, location: bytes) -> Url:
    """The URL that a redirect from `base` names; raises `UrlNotAllowed`. `location` is the header's value.

    Bytes that are not ASCII are passed on one by one, whatever their encoding is: the server knows it.
    """
    return _normal(_NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], location).decode("ascii"), str(base))


def _normal(text: str, base: str | None) -> Url:
    _refuse_length(text, MAX_URL_CHARACTERS)
    try:
        parsed = URL(text, base)
    except ValueError as error:  # a lone surrogate's UnicodeEncodeError among them
        raise UrlNotAllowed("only absolute http and https URLs with a valid host are allowed") from error
    scheme = parsed.protocol.removesuffix(":")
    if scheme not in Url.DEFAULT_PORTS:
        raise UrlNotAllowed("only absolute http and https URLs are allowed")
    if parsed.username or parsed.password:
        raise UrlNotAllowed("credentials in the URL are not allowed")
    try:
        host = checked_host(parsed.hostname)
        port = checked_port(parsed.port) if parsed.port else Url.DEFAULT_PORTS[scheme]
    except ValueError as error:
        raise UrlNotAllowed(f"the URL is not allowed: {error}") from error
    # From the whole and not from its parts: these do not tell `/a?` from `/a`.
    target = parsed.href.partition("#")[0].removeprefix(f"{scheme}://{parsed.host}")
    url = Url(scheme, host, port, target)
    _refuse_length(str(url), MAX_NORMAL_URL_CHARS)
    return url


def _refuse_length(text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise UrlNotAllowed(f"the URL is longer than {max_chars} characters")


def host_of(url: str) -> str:
    """Return what fairness counts by: the host that the fetch will ask, "" for a URL that it will refuse."""
    try:
        return parse_url(url).host
    except UrlNotAllowed:
        return ""
