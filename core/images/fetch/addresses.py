"""Which addresses a stranger may have this service connect to; knows nothing of names and URLs.

Explicit tables after IANA's special-purpose registries, because on Python 3.11 `ipaddress.is_global` lets
6to4, NAT64, multicast and site-local through.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IpAddress = IPv4Address | IPv6Address

NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 connects to this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and a cloud's metadata service at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # public by its number, but Azure's host agent, reachable only from inside
        "169.254.0.0/16",  # link-local, and the metadata services at 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments, and a cloud's metadata service at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
    )
)

GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")  # everything else is local, multicast, mapped or unassigned
NOT_PUBLIC_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: benchmarks, ORCHID, ...
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)

# 64:ff9b:1::/48, NAT64 inside one site, is not unwrapped: where the IPv4 address stands depends on the site's
# prefix length, and it may well be private. Being outside 2000::/3 it is refused.
NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: IpAddress) -> bool:
    """Whether this address, and every IPv4 address that it wraps, belongs to the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_V4)
    if address.scope_id is not None:
        return False
    wrapped = wrapped_v4(address)
    if wrapped:
        return all(is_public(inner) for inner in wrapped)
    return address in GLOBAL_UNICAST_V6 and not any(address in network for network in NOT_PUBLIC_V6)


def wrapped_v4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses where packets to this address end up: mapped, NAT64, 6to4, Teredo; else none."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or ()
