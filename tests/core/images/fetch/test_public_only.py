"""No connection goes to an address that was not checked."""

import itertools
from ipaddress import IPv4Address

import pytest

from core.errors import DownloadError, UrlNotAllowed
from core.images.fetch.resolver import resolve_with_system
from core.images.fetch.sockets import connect_to
from tests.core.images.fetch.fakes import OTHER_PUBLIC, PUBLIC, Names, Wires, fetching, no_names, no_wires, soon
from tests.core.images.fetch.servers import answer, redirect, says, serve, serve_paths

METADATA = "169.254.169.254"

LITERALS = [
    pytest.param(f"http://{METADATA}/latest/meta-data/", id="metadata"),
    pytest.param("http://127.0.0.1/", id="loopback"),
    pytest.param("http://127.0.0.1./", id="loopback-dot"),
    pytest.param("http://\uff11\uff12\uff17.0.0.1/", id="loopback-fullwidth"),
    pytest.param("http://0x7f.1/", id="loopback-hex"),
    pytest.param("http://0177.1/", id="loopback-octal"),
    pytest.param("http://2130706433/", id="loopback-number"),
    pytest.param("http://%31%32%37.1/", id="loopback-escaped"),
    pytest.param("http:\\\\127.0.0.1\\", id="loopback-backslashes"),
    pytest.param("http:127.0.0.1", id="loopback-without-slashes"),
    pytest.param("http://0/", id="unspecified-short"),
    pytest.param("http://0.0.0.0/", id="unspecified"),
    pytest.param("http://10.0.0.1/", id="private-10"),
    pytest.param("http://172.16.0.1/", id="private-172"),
    pytest.param("http://192.168.0.1/", id="private-192"),
    pytest.param("http://100.64.0.1/", id="shared"),
    pytest.param("http://192.0.0.192/", id="protocol-assignments"),
    pytest.param("http://198.18.0.1/", id="benchmark"),
    pytest.param("http://168.63.129.16/", id="azure"),
    pytest.param("http://224.0.0.1/", id="multicast"),
    pytest.param("http://240.0.0.1/", id="reserved"),
    pytest.param("http://255.255.255.255/", id="broadcast"),
    pytest.param("http://[::]/", id="v6-unspecified"),
    pytest.param("http://[::1]/", id="v6-loopback"),
    pytest.param("http://[::ffff:127.0.0.1]/", id="v6-mapped"),
    pytest.param("http://[::127.0.0.1]/", id="v6-compatible"),
    pytest.param("http://[64:ff9b::7f00:1]/", id="v6-nat64"),
    pytest.param("http://[2002:7f00:1::]/", id="v6-6to4"),
    pytest.param("http://[2001:0:808:808::80ff:fffe]/", id="v6-teredo"),
    pytest.param("http://[fe80::1]/", id="v6-link-local"),
    pytest.param("http://[fec0::1]/", id="v6-site-local"),
    pytest.param("http://[fd00:ec2::254]/", id="v6-metadata"),
    pytest.param("http://[ff02::1]/", id="v6-multicast"),
    pytest.param(f"http://{PUBLIC}:22/", id="port-22"),
    pytest.param(f"http://{PUBLIC}:8080/", id="port-8080"),
    pytest.param("http://example.com:22/", id="name-port-22"),
]


@pytest.mark.parametrize("url", LITERALS)
def test_hostile_urls(url: str) -> None:
    """An address that is not public, or another port, is refused before any lookup or connection."""
    with (
        fetching("", resolve=no_names, connect=no_wires) as fetcher,
        pytest.raises(UrlNotAllowed) as caught,
    ):
        fetcher.fetch(url, deadline=soon())

    assert caught.value.message in (
        "the host's address is not public",
        "only ports 80 and 443 are allowed",
    )


# Each is one private address in the many ways in which browsers let it be written.
SPELLINGS = [
    *("127.0.0.1", "127.1", "127.0.1", "0177.0.0.01", "0x7f.0.0.1", "0x7F000001", "2130706433", "017700000001"),
    *("\uff11\uff12\uff17.1", "127\u30020\uff0e0\uff611", "%31%32%37.0.0.1", "127%2e0%2E0.1", "\u2460\u2461\u2466.1"),
    *("169.254.169.254", "0xa9fea9fe", "2852039166", "169.254.43518", "0251.0376.0251.0376"),
    *("0", "0x0", "10.1", "0300.0250.1"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::FFFF:7F00:1]", "[::127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fd00:ec2::254]"),
]
BEGINNINGS = [
    *("http://", "HTTP:", "https:/", "http:///", "http:\\\\", "https:/\\"),
    *(" http://", "ht\ttp:/\n/", "http://@", "http://:@"),
]
ENDS = [
    *("", "/", ":80/", ":", ":443\\a", ".", "./a", "\t/"),
    *("?@example.com/", "#@example.com/", "\\@example.com/", "/@example.com"),
]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_no_spelling_of_a_private_address_is_reached(beginning: str) -> None:
    """However an address is written, it is refused before any lookup or connection."""
    with fetching("", resolve=no_names, connect=no_wires) as fetcher:
        for spelling, end in itertools.product(SPELLINGS, ENDS):
            with pytest.raises(UrlNotAllowed):
                fetcher.fetch(beginning + spelling + end, deadline=soon())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_are_refused_for_their_address(spelling: str) -> None:
    """They are understood as that address, not merely as nonsense."""
    with (
        fetching("", resolve=no_names, connect=no_wires) as fetcher,
        pytest.raises(UrlNotAllowed, match="the host's address is not public"),
    ):
        fetcher.fetch(f"http://{spelling}/", deadline=soon())


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(["127.0.0.1"], id="loopback"),
        pytest.param([PUBLIC, "10.0.0.1"], id="private-after-public"),
        pytest.param([METADATA, PUBLIC], id="private-before-public"),
        pytest.param([PUBLIC, OTHER_PUBLIC, "::ffff:10.0.0.1"], id="mapped-last"),
        pytest.param(["fe80::1%eth0"], id="scoped"),
    ],
)
def test_one_private_answer_is_enough(answers: list[str]) -> None:
    """A name is refused when any of its addresses is not public; the message does not tell which."""
    names = Names(evil_test=[answers])
    with (
        fetching("", resolve=names, connect=no_wires) as fetcher,
        pytest.raises(UrlNotAllowed) as caught,
    ):
        fetcher.fetch("http://evil.test/?token=hunter2", deadline=soon())

    assert caught.value.message == "the host's address is not public"


def test_localhost() -> None:
    """The system's own resolver is checked like any other."""
    with (
        fetching("", resolve=resolve_with_system, connect=no_wires) as fetcher,
        pytest.raises(UrlNotAllowed),
    ):
        fetcher.fetch("http://localhost/", deadline=soon())


def test_name_that_changes_its_address() -> None:
    """A name is looked up once per connection, which goes to the very answer that was checked."""
    names = Names(rebind_test=[[PUBLIC], ["127.0.0.1"]])
    with serve(says(answer(b"image"))) as server:
        wires = Wires(server.port)
        with fetching("", resolve=names, connect=wires) as fetcher:
            body = fetcher.fetch("http://rebind.test/", deadline=soon())

    assert (body, names.asked, wires.addresses) == (b"image", [("rebind.test", 80)], [PUBLIC])


def test_name_that_changes_its_address_between_hops() -> None:
    """A redirect to the same name is checked anew: the connection never goes to the second answer."""
    names = Names(rebind_test=[[PUBLIC], ["127.0.0.1"]])
    with serve(says(redirect("/again"))) as server:
        wires = Wires(server.port)
        with fetching("", resolve=names, connect=wires) as fetcher, pytest.raises(UrlNotAllowed):
            fetcher.fetch("http://rebind.test/", deadline=soon())

    assert (len(names.asked), wires.addresses) == (2, [PUBLIC])


def test_kept_connection_goes_where_it_was_checked() -> None:
    """A kept connection is used without a new lookup: its address was checked when it was made."""
    names = Names(rebind_test=[[PUBLIC], ["127.0.0.1"]])
    with serve_paths({"/": answer(b"image")}) as server:
        wires = Wires(server.port)
        with fetching("", resolve=names, connect=wires) as fetcher:
            bodies = [fetcher.fetch("http://rebind.test/", deadline=soon()) for _ in range(2)]

    assert (bodies, wires.addresses, server.connections) == ([b"image"] * 2, [PUBLIC], 1)


def test_kept_connection_serves_only_its_origin() -> None:
    """A connection made for one name is not used for another one at the same address."""
    names = Names(a_test=[[PUBLIC]], b_test=[[PUBLIC]])
    with serve_paths({"/": answer(b"image")}) as server:
        wires = Wires(server.port)
        with fetching("", resolve=names, connect=wires) as fetcher:
            for url in ("http://a.test/", "http://b.test/", "http://a.test:443/"):
                fetcher.fetch(url, deadline=soon())
    hosts = [line for head in server.requests for line in head.split(b"\r\n") if line.startswith(b"Host")]

    assert (server.connections, hosts) == (3, [b"Host: a.test", b"Host: b.test", b"Host: a.test:443"])


def test_addresses_are_tried_in_order() -> None:
    """When the first address does not answer, the next checked one is tried."""
    names = Names(two_test=[[PUBLIC, OTHER_PUBLIC]])
    with serve(says(answer(b"image"))) as server:
        wires = Wires(server.port, dead=[PUBLIC])
        with fetching("", resolve=names, connect=wires) as fetcher:
            body = fetcher.fetch("http://two.test/", deadline=soon())

    assert (body, wires.addresses) == (b"image", [PUBLIC, OTHER_PUBLIC])


def test_not_all_of_many_addresses_are_tried() -> None:
    """A name with many dead addresses does not make this service knock at all of them."""
    many = [f"93.184.216.{number}" for number in range(50)]
    wires = Wires(0, dead=many)
    with (
        fetching("", resolve=Names(many_test=[many]), connect=wires) as fetcher,
        pytest.raises(DownloadError) as caught,
    ):
        fetcher.fetch("http://many.test/", deadline=soon())

    assert (wires.addresses, caught.value.retryable) == (many[:4], True)


@pytest.mark.parametrize(
    ("allow", "allowed"),
    [
        pytest.param("images.test", True, id="name"),
        pytest.param("IMAGES.test.", True, id="name-case"),
        pytest.param("images.test:{port}", True, id="name-and-port"),
        pytest.param("127.0.0.0/8", True, id="network"),
        pytest.param("images.test:1", False, id="name-and-other-port"),
        pytest.param("127.0.0.1", False, id="address-does-not-exempt-names"),
        pytest.param("10.0.0.0/8", False, id="other-network"),
        pytest.param("test", False, id="parent-name"),
    ],
)
def test_allow_list(allow: str, allowed: bool) -> None:
    """A name at a private address and a port of its own is fetched only when the operator listed it."""
    names = Names(images_test=[["127.0.0.1"]])
    with (
        serve(says(answer(b"image"))) as server,
        fetching(allow.format(port=server.port), resolve=names) as fetcher,
    ):
        try:
            body = fetcher.fetch(server.url(host="images.test"), deadline=soon())
        except UrlNotAllowed:
            body = b"refused"

    assert body == (b"image" if allowed else b"refused")


def test_network_exempts_no_other_answer() -> None:
    """Beside an address in a listed network, another private answer is still refused."""
    names = Names(images_test=[["127.0.0.1", "10.0.0.1"]])
    with (
        fetching("127.0.0.0/8", resolve=names, connect=no_wires) as fetcher,
        pytest.raises(UrlNotAllowed, match="not public"),
    ):
        fetcher.fetch("http://images.test/", deadline=soon())


def test_network_exempts_no_port_of_a_public_address() -> None:
    """With a network listed, a public address outside of it keeps its two ports."""
    names = Names(images_test=[[PUBLIC]])
    with (
        fetching("127.0.0.0/8", resolve=names, connect=no_wires) as fetcher,
        pytest.raises(UrlNotAllowed, match="ports"),
    ):
        fetcher.fetch("http://images.test:8080/", deadline=soon())


def test_peer_is_compared_with_the_address() -> None:
    """A socket whose peer is not the address asked for is not used: 0.0.0.0 connects to 127.0.0.1."""
    with serve(says(b"")) as server, pytest.raises(ConnectionError, match="another address"):
        connect_to(IPv4Address(0), server.port, soon())
