"""Which addresses are public."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.images.fetch.addresses import NOT_PUBLIC_V4, NOT_PUBLIC_V6, is_public

# Typed again instead of read from the module: a row lost there must be missed here.
SPECIAL = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/8",
    "64:ff9b:1::/48",
    "100::/64",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
PRIVATE_V4 = st.sampled_from(NOT_PUBLIC_V4).flatmap(lambda network: st.ip_addresses(network=network))
PRIVATE_V6 = st.sampled_from(NOT_PUBLIC_V6).flatmap(lambda network: st.ip_addresses(network=network))


@pytest.mark.parametrize("network", [pytest.param(text, id=text) for text in SPECIAL])
def test_special_blocks_are_not_public_at_either_end(network: str) -> None:
    """The first and the last address of every special block are refused."""
    block = ip_network(network)
    ends = [block[0], block[-1]]

    assert not any(is_public(end) for end in ends)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("1.1.1.1", id="v4"),
        pytest.param("9.255.255.255", id="below-10"),
        pytest.param("11.0.0.0", id="above-10"),
        pytest.param("100.63.255.255", id="below-shared"),
        pytest.param("100.128.0.0", id="above-shared"),
        pytest.param("172.15.255.255", id="below-172.16"),
        pytest.param("172.32.0.0", id="above-172.16"),
        pytest.param("223.255.255.255", id="below-multicast"),
        pytest.param("2606:4700::1111", id="v6"),
        pytest.param("2001:4860:4860::8888", id="v6-above-protocol-assignments"),
        pytest.param("::ffff:8.8.8.8", id="mapped-public"),
        pytest.param("64:ff9b::8.8.8.8", id="nat64-public"),
    ],
)
def test_neighbours_of_special_blocks_are_public(address: str) -> None:
    """The tables refuse no address beside a special block."""
    assert is_public(ip_address(address))


def test_scoped_address_is_not_public() -> None:
    """An address with a zone belongs to a link, whatever its number."""
    assert not is_public(IPv6Address("2606:4700::1%eth0"))


@given(PRIVATE_V4 | PRIVATE_V6)
def test_nothing_in_a_special_block_is_public(address: IPv4Address | IPv6Address) -> None:
    """Every address of a special block is refused; a Teredo address is by what it wraps."""
    wrapped = address.teredo if isinstance(address, IPv6Address) else None

    assert not is_public(address) or wrapped


@given(PRIVATE_V4)
def test_no_wrapping_makes_a_private_address_public(address: IPv4Address) -> None:
    """Mapped, compatible, NAT64, 6to4 and Teredo forms of a private address are as private as it is."""
    inner = int(address)
    outer = int(IPv4Address("8.8.8.8"))
    wrappings = [
        inner,
        (0xFFFF << 32) | inner,
        (0xFFFF << 48) | inner,
        int(IPv6Address("64:ff9b::")) | inner,
        int(IPv6Address("64:ff9b:1::")) | inner,
        (0x2002 << 112) | (inner << 80) | 1,
        (0x20010000 << 96) | (inner << 64) | (outer ^ 0xFFFFFFFF),
        (0x20010000 << 96) | (outer << 64) | (inner ^ 0xFFFFFFFF),
    ]
    public_ones = [number for number in wrappings if is_public(IPv6Address(number))]

    assert public_ones == []


@given(st.ip_addresses(v=6))
def test_only_global_unicast_or_wrapped_is_public(address: IPv6Address) -> None:
    """Outside 2000::/3 nothing is public but mapped and NAT64 forms."""
    may_be = [IPv6Network("2000::/3"), IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")]

    assert not is_public(address) or any(address in network for network in may_be)
