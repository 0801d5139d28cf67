"""DOWNLOAD_ALLOW_HOSTS."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.images.fetch.allowlist import AllowList


@pytest.mark.parametrize(
    ("value", "host", "port", "expected"),
    [
        pytest.param("", "example.com", 80, False, id="empty"),
        pytest.param(" , ", "example.com", 80, False, id="blank-entries"),
        pytest.param("images.test", "images.test", 8080, True, id="host-any-port"),
        pytest.param("Images.TEST.", "images.test", 80, True, id="case-and-dot"),
        pytest.param("images.test", "a.images.test", 80, False, id="no-subdomains"),
        pytest.param("images.test:8080", "images.test", 8080, True, id="host-port"),
        pytest.param("images.test:8080", "images.test", 80, False, id="other-port"),
        pytest.param("127.0.0.1:9000", "127.0.0.1", 9000, True, id="v4-port"),
        pytest.param("[::1]:9000", "::1", 9000, True, id="v6-port"),
        pytest.param("[::1]", "::1", 9000, True, id="v6-brackets"),
        pytest.param("0:0::1", "::1", 9000, True, id="v6-bare"),
        pytest.param("a.test, b.test:81", "b.test", 81, True, id="second-entry"),
        pytest.param("10.0.0.0/8", "10.0.0.1", 80, False, id="network-is-not-a-host"),
        pytest.param("127.1", "127.0.0.1", 80, True, id="short-v4"),
        pytest.param("0x7f000001:81", "127.0.0.1", 81, True, id="hex-v4-port"),
        pytest.param("Bücher.example", "xn--bcher-kva.example", 80, True, id="international-name"),
        pytest.param("images.test:80", "images.test", 443, False, id="the-scheme-s-own-port"),
    ],
)
def test_hosts(value: str, host: str, port: int, expected: bool) -> None:
    """A host in any spelling is exempt on all ports, a host with a port on that one only."""
    assert expected is AllowList.parse(value).has_host(host, port)


@pytest.mark.parametrize(
    ("value", "address", "expected"),
    [
        pytest.param("10.0.0.0/8", "10.255.0.1", True, id="inside"),
        pytest.param("10.0.0.0/8", "11.0.0.1", False, id="outside"),
        pytest.param("10.0.0.0/8", "::ffff:10.0.0.1", False, id="mapped-is-another-address"),
        pytest.param("fd00::/8", "fd00::1", True, id="v6"),
        pytest.param("10.0.0.1", "10.0.0.1", False, id="host-is-not-a-network"),
    ],
)
def test_networks(value: str, address: str, expected: bool) -> None:
    """A network exempts the addresses in it, however the URL names them."""
    assert expected is AllowList.parse(value).has_address(ip_address(address))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("http://images.test", id="url"),
        pytest.param("images.test/path", id="path"),
        pytest.param("10.0.0.1/8", id="host-bits"),
        pytest.param("10.0.0.0/33", id="prefix"),
        pytest.param("images.test:0", id="port-zero"),
        pytest.param("images.test:65536", id="port-high"),
        pytest.param("images.test:http", id="port-name"),
        pytest.param("*.images.test", id="wildcard"),
        pytest.param("a b", id="space"),
        pytest.param("user@images.test", id="credentials"),
        pytest.param("fe80::1%eth0", id="zone"),
        pytest.param("a\tb", id="tab"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("a?b", id="query"),
        pytest.param("a#b", id="fragment"),
        pytest.param("a%2fb", id="escaped-slash"),
        pytest.param("1.2.3.4.5", id="five-numbers"),
    ],
)
def test_bad_entry_is_named(entry: str) -> None:
    """A bad entry stops the start with a message that repeats it."""
    with pytest.raises(ValueError, match="is not a host, a host:port or a CIDR") as caught:
        AllowList.parse(f"good.test,{entry}")

    assert repr(entry) in str(caught.value)


@given(st.text(st.characters(), max_size=40) | st.text("a1:./[]%,@", max_size=20))
def test_any_text_parses_or_is_a_value_error(value: str) -> None:
    """No text makes the parser fail with anything but ValueError."""
    try:
        parsed = AllowList.parse(value)
    except ValueError:
        return

    assert parsed == AllowList.parse(value)
