"""A stranger's URL, parsed once and rebuilt; everything afterwards uses only the rebuilt form.

Two parsers that read one text differently (`http://evil\\@good/`) are how a checked URL becomes another one.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar
from urllib.parse import quote, urljoin

from core.errors import UrlNotAllowed
from core.images.fetch.hosts import split_authority

MAX_URL_CHARS = 4096

# Character classes are spelled out: with IGNORECASE, `s` would also match the long s, U+017F.
_PARTS = re.compile(
    r"(?P<scheme>[hH][tT][tT][pP][sS]?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?"
)
# Everything RFC 3986 lets stand in a path or a query, and "%": escapes are passed on as they were written,
# because a presigned URL is signed as it was written.
_TARGET_SAFE = "%/?:@[]!$&'()*+,;=-._~"


@dataclass(frozen=True)
class Url:
    """Made by `parse_url` only. `host` is canonical, without brackets; `target` is path and query."""

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
    """Parse an absolute http or https URL; raises `UrlNotAllowed` for any other text."""
    _refuse_length(text)
    _refuse_unclear_characters(text)
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise UrlNotAllowed("only absolute http and https URLs are allowed")
    if "@" in parts["authority"]:
        raise UrlNotAllowed("credentials in the URL are not allowed")
    try:
        host, port = split_authority(parts["authority"])
    except ValueError as error:
        raise UrlNotAllowed(f"the URL is not allowed: {error}") from error
    scheme = parts["scheme"].lower()
    target = quote((parts["path"] or "/") + (parts["query"] or ""), safe=_TARGET_SAFE)
    url = Url(scheme, host, port or Url.DEFAULT_PORTS[scheme], target)
    _refuse_length(str(url))  # escaping makes it longer
    return url


def resolve_location(base: Url, location: bytes) -> Url:
    """The URL that a redirect from `base` names; raises `UrlNotAllowed`. `location` is the header's value."""
    try:
        text = location.decode("utf-8").strip(" ")
    except UnicodeError as error:
        raise UrlNotAllowed("the redirect's URL is not UTF-8") from error
    # Before the join: urljoin drops tabs and newlines without a word.
    _refuse_unclear_characters(text)
    try:
        joined = urljoin(str(base), text)
    except ValueError as error:
        raise UrlNotAllowed("the redirect's URL cannot be understood") from error
    return parse_url(joined)


def _refuse_length(text: str) -> None:
    if len(text) > MAX_URL_CHARS:
        raise UrlNotAllowed(f"the URL is longer than {MAX_URL_CHARS} characters")


def _refuse_unclear_characters(text: str) -> None:
    """Refuse what parsers disagree on: spaces of any script, controls, lone surrogates, backslashes."""
    if " " in text or "\\" in text or not text.isprintable():
        raise UrlNotAllowed("spaces, control characters and backslashes are not allowed in the URL")
