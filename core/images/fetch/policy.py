"""The two questions asked before a connection: may this port be used, may this address be reached."""

from collections.abc import Sequence

from core.errors import UrlNotAllowed
from core.images.fetch.addresses import IpAddress, is_public
from core.images.fetch.allowlist import AllowList
from core.images.fetch.urls import Url

PUBLIC_PORTS = frozenset({80, 443})


def refuse_port(url: Url, allow: AllowList) -> None:
    """Raise `UrlNotAllowed` when no address could make this port acceptable, so that no name is looked up."""
    if url.port in PUBLIC_PORTS or allow.has_host(url.host, url.port) or allow.networks:
        return
    raise UrlNotAllowed("only ports 80 and 443 are allowed")


def refuse_addresses(url: Url, addresses: Sequence[IpAddress], allow: AllowList) -> None:
    """Raise `UrlNotAllowed` unless every one of the addresses may be reached.

    Every one, not the first: a name with one public and one private answer is an attempt to be connected to
    the private one.
    """
    if allow.has_host(url.host, url.port):
        return
    strangers = [address for address in addresses if not allow.has_address(address)]
    if not all(is_public(address) for address in strangers):
        raise UrlNotAllowed("the host's address is not public")
    if strangers and url.port not in PUBLIC_PORTS:
        raise UrlNotAllowed("only ports 80 and 443 are allowed")
