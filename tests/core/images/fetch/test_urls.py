"""Parsing of strangers' URLs."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import UrlNotAllowed
from core.images.fetch.urls import Url, parse_url, resolve_location

SYMBOLS = st.sampled_from(":/?#[]@\\%.-_ \t\n0a\u00fc\u3002\ud800")
WORDS = st.sampled_from(["http", "HTTPS", "://", "example.com", "127.0.0.1", "0x7f", "\uff11", "[::1]", "xn--"])
ANY_TEXT = st.text(st.characters(), max_size=60)
URL_LIKE = st.lists(SYMBOLS | WORDS | st.text(st.characters(), max_size=3), max_size=12).map("".join)
HTTP_LIKE = st.builds("http://{}/{}".format, URL_LIKE, URL_LIKE)


def as_bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


REFUSED = [
    pytest.param("", id="empty"),
    pytest.param("/a.png", id="relative"),
    pytest.param("//example.com/a.png", id="no-scheme"),
    pytest.param("http:/example.com", id="one-slash"),
    pytest.param("http:example.com", id="no-slash"),
    pytest.param("gopher://example.com/", id="gopher"),
    pytest.param("file:///etc/passwd", id="file"),
    pytest.param("ftp://example.com/a.png", id="ftp"),
    pytest.param("data:image/png;base64,AAAA", id="data"),
    pytest.param("javascript:alert(1)", id="javascript"),
    pytest.param("http\u017f://example.com/", id="long-s-in-scheme"),
    pytest.param(" http://example.com/", id="leading-space"),
    pytest.param("http://example.com/a b", id="space-in-path"),
    pytest.param("http://exam\tple.com/", id="tab"),
    pytest.param("http://example.com/\r\nHost: evil", id="newlines"),
    pytest.param("http://example.com/\x00", id="nul"),
    pytest.param("http://example.com/\u2028", id="line-separator"),
    pytest.param("http://example.com/\ud800", id="lone-surrogate-in-path"),
    pytest.param("http://\udfff.com/", id="lone-surrogate-in-host"),
    pytest.param("http://a@b/", id="user"),
    pytest.param("http://user:pass@example.com/", id="credentials"),
    pytest.param("http://example.com@127.0.0.1/", id="host-as-user"),
    pytest.param("http://evil\\@good/", id="backslash-at"),
    pytest.param("http://good\\.evil.com/", id="backslash"),
    pytest.param("http:///a.png", id="no-host"),
    pytest.param("http://:80/", id="port-only"),
    pytest.param("http://./", id="dot"),
    pytest.param("http://example.com../", id="two-dots"),
    pytest.param("http://.example.com/", id="leading-dot"),
    pytest.param("http://exa%6dple.com/", id="escape-in-host"),
    pytest.param("http://exa<mple.com/", id="symbol-in-host"),
    pytest.param(f"http://{'a' * 64}.com/", id="label-too-long"),
    pytest.param(f"http://{'a.' * 127}com/", id="name-too-long"),
    pytest.param("http://2130706433/", id="decimal-v4"),
    pytest.param("http://0177.0.0.1/", id="octal-v4"),
    pytest.param("http://0x7f.1/", id="hex-v4"),
    pytest.param("http://0x7f000001/", id="hex-number-v4"),
    pytest.param("http://127.0x0.0.0X1/", id="hex-last-v4"),
    pytest.param("http://127.1/", id="short-v4"),
    pytest.param("http://0/", id="zero"),
    pytest.param("http://1.2.3.4.5/", id="five-numbers"),
    pytest.param("http://256.1.1.1/", id="v4-out-of-range"),
    pytest.param("http://[fe80::1%25eth0]/", id="zone"),
    pytest.param("http://[fe80::1%eth0]/", id="raw-zone"),
    pytest.param("http://[::1/", id="open-bracket"),
    pytest.param("http://::1/", id="v6-without-brackets"),
    pytest.param("http://[::1].example.com/", id="v6-and-name"),
    pytest.param("http://[1.2.3.4]/", id="v4-in-brackets"),
    pytest.param("http://[v1.fe80]/", id="future-address"),
    pytest.param("http://example.com:/", id="empty-port"),
    pytest.param("http://example.com:0/", id="port-zero"),
    pytest.param("http://example.com:65536/", id="port-high"),
    pytest.param("http://example.com:-80/", id="port-sign"),
    pytest.param("http://example.com:\uff18\uff10/", id="port-fullwidth"),
    pytest.param("http://example.com:80:80/", id="two-ports"),
    pytest.param("http://xn--a.example\u2100.com/", id="symbol-that-maps-to-a-slash"),
    pytest.param("http://a\u200db.com/", id="zero-width-joiner"),
    pytest.param("http://example.com/" + "a" * 4096, id="too-long"),
    pytest.param("http://example.com/" + "\u00e9" * 1000, id="too-long-when-escaped"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    """What is not a plain http or https URL is refused before anything is looked up."""
    with pytest.raises(UrlNotAllowed):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "rebuilt"),
    [
        pytest.param("http://example.com", "http://example.com/", id="empty-path"),
        pytest.param("HTTPS://Example.COM:443/A", "https://example.com/A", id="case-and-default-port"),
        pytest.param("http://example.com:443/", "http://example.com:443/", id="other-port"),
        pytest.param("http://example.com./a", "http://example.com/a", id="trailing-dot"),
        pytest.param("http://example.com?a=b", "http://example.com/?a=b", id="query-without-path"),
        pytest.param("http://example.com/a#b?c", "http://example.com/a", id="fragment"),
        pytest.param("http://a.test/%2f%zz?s=%2Fb", "http://a.test/%2f%zz?s=%2Fb", id="escapes-kept"),
        pytest.param("http://example.com/a|b{c}", "http://example.com/a%7Cb%7Bc%7D", id="symbols-escaped"),
        pytest.param("http://example.com/é", "http://example.com/%C3%A9", id="path-in-utf8"),
        pytest.param("http://example.com/a@b:c", "http://example.com/a@b:c", id="at-in-path"),
        pytest.param("http://bücher.example/", "http://xn--bcher-kva.example/", id="international-name"),
        pytest.param("http://BÜCHER。example/", "http://xn--bcher-kva.example/", id="international-dot"),
        pytest.param("http://my_bucket.example/", "http://my_bucket.example/", id="underscore"),
        pytest.param("http://[2001:DB8:0::1]:80/", "http://[2001:db8::1]/", id="v6"),
        pytest.param("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", id="mapped-v4"),
        pytest.param("http://127.0.0.1./", "http://127.0.0.1/", id="v4-trailing-dot"),
        pytest.param("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/", id="fullwidth-v4-is-that-address"),
    ],
)
def test_rebuilt(text: str, rebuilt: str) -> None:
    """A URL is rebuilt in one spelling, without changing the escapes of its path and query."""
    assert rebuilt == str(parse_url(text))


def test_refusal_keeps_secrets() -> None:
    """The message repeats neither credentials nor query."""
    with pytest.raises(UrlNotAllowed, match="credentials") as caught:
        parse_url("http://user:hunter2@example.com/?token=hunter2")

    assert "hunter2" not in caught.value.message


@given(ANY_TEXT | URL_LIKE | HTTP_LIKE)
@example("http://\ud800/")
@example("http://xn--/")
def test_any_text_is_refused_or_rebuilt(text: str) -> None:
    """Any text is refused with UrlNotAllowed, or rebuilt into a URL that parses to itself."""
    try:
        url = parse_url(text)
    except UrlNotAllowed:
        return

    assert url == parse_url(str(url))
    assert str(url).isascii()


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        pytest.param("/b.png", "http://example.com:443/b.png", id="path"),
        pytest.param("b.png?x", "http://example.com:443/dir/b.png?x", id="relative"),
        pytest.param("//other.com/b", "http://other.com/b", id="scheme-relative"),
        pytest.param("https://other.com/b#c", "https://other.com/b", id="absolute"),
        pytest.param(" /b ", "http://example.com:443/b", id="surrounding-spaces"),
        pytest.param("/é", "http://example.com:443/%C3%A9", id="utf8-bytes"),
    ],
)
def test_location(location: str, expected: str) -> None:
    """A redirect's Location is resolved against the URL that answered."""
    base = Url("http", "example.com", 443, "/dir/a.png")

    assert expected == str(resolve_location(base, location.encode()))


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("http://a@b/", id="user"),
        pytest.param("/a\tb", id="tab"),
        pytest.param("http://[::1", id="open-bracket"),
        pytest.param("/\udcff", id="not-utf8"),
        pytest.param("/a\r\n b", id="folded"),
    ],
)
def test_location_refused(location: str) -> None:
    """A redirect is held to the same rules as the first URL."""
    with pytest.raises(UrlNotAllowed):
        resolve_location(Url("http", "example.com", 80, "/"), location.encode(errors="surrogateescape"))


@given(ANY_TEXT.map(as_bytes) | URL_LIKE.map(as_bytes) | st.binary(max_size=60))
def test_any_location_is_refused_or_rebuilt(location: bytes) -> None:
    """Any Location is refused with UrlNotAllowed, or leads to a URL that parses to itself."""
    try:
        url = resolve_location(Url("http", "example.com", 80, "/dir/a.png"), location)
    except UrlNotAllowed:
        return

    assert url == parse_url(str(url))
