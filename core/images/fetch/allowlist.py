"""DOWNLOAD_ALLOW_HOSTS: what the operator exempts from the public-address and port rules."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeVar

from core.images.fetch.addresses import IpAddress
from core.images.fetch.hosts import split_authority

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class AllowList:
    """`hosts` and `host_ports` match the host as the URL names it; `networks` match resolved addresses.

    A host or a network exempts all its ports, a host with a port only that one.
    """

    hosts: frozenset[str] = frozenset()
    host_ports: frozenset[tuple[str, int]] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, value: str) -> "AllowList":
        """Parse comma-separated `host`, `host:port`, `[v6]:port` or CIDR; an empty text exempts nothing.

        Raises `ValueError` with a message that names the bad entry.
        """
        entries = [entry for entry in (part.strip() for part in value.split(",")) if entry]
        networks = tuple(_parsed(entry, ip_network) for entry in entries if "/" in entry)
        hosts = [_parsed(entry, _split_host) for entry in entries if "/" not in entry]
        return cls(
            hosts=frozenset(host for host, port in hosts if port is None),
            host_ports=frozenset((host, port) for host, port in hosts if port is not None),
            networks=networks,
        )

    def has_host(self, host: str, port: int) -> bool:
        """`host` in its canonical form."""
        return host in self.hosts or (host, port) in self.host_ports

    def has_address(self, address: IpAddress) -> bool:
        return any(address in network for network in self.networks)


def _parsed(entry: str, parse: Callable[[str], Parsed]) -> Parsed:
    try:
        return parse(entry)
    except ValueError as error:
        raise ValueError(f"{entry!r} is not a host, a host:port or a CIDR ({error})") from error


def _split_host(entry: str) -> tuple[str, int | None]:
    """As in a URL, and an IPv6 address also without brackets."""
    bare_v6 = entry.count(":") > 1 and not entry.startswith("[")
    return split_authority(f"[{entry}]" if bare_v6 else entry)
