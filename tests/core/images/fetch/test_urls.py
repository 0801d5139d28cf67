"""Parsing of strangers' URLs."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import UrlNotAllowed
from core.images.fetch.urls import Url, host_of, parse_url, resolve_location

SYMBOLS = st.sampled_from(":/?#[]@\\%.-_ \t\n0a\u00fc\u3002\ud800")
WORDS = st.sampled_from(["http", "HTTPS", "://", "example.com", "127.0.0.1", "0x7f", "\uff11", "[::1]", "xn--"])
ANY_TEXT = st.text(st.characters(), max_size=60)
URL_LIKE = st.lists(SYMBOLS | WORDS | st.text(st.characters(), max_size=3), max_size=12).map("".join)
VISIBLE = re.compile(r"[!-~]+")
HTTP_LIKE = st.builds("http://{}/{}".format, URL_LIKE, URL_LIKE)


def as_bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


REFUSED = [
    pytest.param("", id="empty"),
    pytest.param("/a.png", id="relative"),
    pytest.param("//example.com/a.png", id="no-scheme"),
    pytest.param("gopher://example.com/", id="gopher"),
    pytest.param("file:///etc/passwd", id="file"),
    pytest.param("ftp://example.com/a.png", id="ftp"),
    pytest.param("data:image/png;base64,AAAA", id="data"),
    pytest.param("javascript:alert(1)", id="javascript"),
    pytest.param("http\u017f://example.com/", id="long-s-in-scheme"),
    pytest.param("http://example.com/\ud800", id="lone-surrogate-in-path"),
    pytest.param("http://\udfff.com/", id="lone-surrogate-in-host"),
    pytest.param("http://a@b/", id="user"),
    pytest.param("http://user:pass@example.com/", id="credentials"),
    pytest.param("http://:pass@example.com/", id="password-alone"),
    pytest.param("http://example.com@127.0.0.1/", id="host-as-user"),
    pytest.param("http://evil@good\\@other/", id="user-before-a-backslash"),
    pytest.param("http://:80/", id="port-only"),
    pytest.param("http://./", id="dot"),
    pytest.param("http://example.com../", id="two-dots"),
    pytest.param("http://.example.com/", id="leading-dot"),
    pytest.param("http://exa<mple.com/", id="symbol-in-host"),
    pytest.param(f"http://{'a' * 64}.com/", id="label-too-long"),
    pytest.param(f"http://{'a.' * 127}com/", id="name-too-long"),
    pytest.param("http://1.2.3.4.5/", id="five-numbers"),
    pytest.param("http://256.1.1.1/", id="v4-out-of-range"),
    pytest.param("http://[fe80::1%25eth0]/", id="zone"),
    pytest.param("http://[fe80::1%eth0]/", id="raw-zone"),
    pytest.param("http://[::1/", id="open-bracket"),
    pytest.param("http://::1/", id="v6-without-brackets"),
    pytest.param("http://[::1].example.com/", id="v6-and-name"),
    pytest.param("http://[1.2.3.4]/", id="v4-in-brackets"),
    pytest.param("http://[v1.fe80]/", id="future-address"),
    pytest.param("http://example.com:0/", id="port-zero"),
    pytest.param("http://example.com:65536/", id="port-high"),
    pytest.param("http://example.com:000/", id="port-zero-written-long"),
    pytest.param("http://example.com:-80/", id="port-sign"),
    pytest.param("http://example.com:\uff18\uff10/", id="port-fullwidth"),
    pytest.param("http://example.com\uff1a80/", id="port-behind-a-fullwidth-colon"),
    pytest.param("http://example.com:80:80/", id="two-ports"),
    pytest.param("http://exa%20mple.com/", id="escaped-space-in-host"),
    pytest.param("http://example.com%2f.evil.test/", id="escaped-slash-in-host"),
    pytest.param("http://example.com%00.evil.test/", id="escaped-nul-in-host"),
    pytest.param("http://exa!mple.com/", id="symbol-that-no-name-has"),
    pytest.param("http://exa mple.com/", id="space-in-host"),
    pytest.param("http://xn--a.example\u2100.com/", id="symbol-that-maps-to-a-slash"),
    pytest.param("http://a\u200db.com/", id="zero-width-joiner"),
    pytest.param("http://example.com/" + "a" * 4096, id="too-long"),
    pytest.param("http://example.com/" + "\u00e9" * 2731, id="too-long-when-escaped"),
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
        pytest.param("http://example.com:/a", "http://example.com/a", id="empty-port"),
        pytest.param("http://example.com:00080/a", "http://example.com/a", id="zeros-before-the-port"),
        pytest.param("http://example.com./a", "http://example.com/a", id="trailing-dot"),
        pytest.param("http://example.com?a=b", "http://example.com/?a=b", id="query-without-path"),
        pytest.param("http://example.com/a?", "http://example.com/a?", id="empty-query"),
        pytest.param("http://example.com/a#b?c", "http://example.com/a", id="fragment"),
        pytest.param("http://example.com/a?#", "http://example.com/a?", id="empty-query-and-fragment"),
        pytest.param("http:/example.com/a", "http://example.com/a", id="one-slash"),
        pytest.param("http:example.com/a", "http://example.com/a", id="no-slash"),
        pytest.param("http:///example.com/a", "http://example.com/a", id="three-slashes"),
        pytest.param("http:\\\\example.com\\a\\b?c\\d", "http://example.com/a/b?c\\d", id="backslashes"),
        pytest.param("http://good\\.evil.com/", "http://good/.evil.com/", id="backslash-ends-the-host"),
        pytest.param("http://evil\\@good/", "http://evil/@good/", id="backslash-before-an-at"),
        pytest.param("http://@example.com/a", "http://example.com/a", id="empty-credentials"),
        pytest.param(" \x00http://example.com/a\x1f ", "http://example.com/a", id="surrounding-spaces-and-controls"),
        pytest.param("http://exam\tple.com/\r\na\n", "http://example.com/a", id="tabs-and-newlines"),
        pytest.param("http://example.com/\r\nHost: evil", "http://example.com/Host:%20evil", id="no-second-header"),
        pytest.param("http://example.com/a b?c d", "http://example.com/a%20b?c%20d", id="spaces"),
        pytest.param("http://example.com/\x00\x7f\u2028", "http://example.com/%00%7F%E2%80%A8", id="controls-escaped"),
        pytest.param("http://example.com/a/../b/%2E%2e/./c", "http://example.com/c", id="dot-segments"),
        pytest.param("http://example.com/../..//a", "http://example.com//a", id="dots-above-the-root"),
        pytest.param("http://a.test/%2f%zz?s=%2Fb", "http://a.test/%2f%zz?s=%2Fb", id="escapes-kept"),
        pytest.param("http://a.test/<{\"`^}>|'", "http://a.test/%3C%7B%22%60%5E%7D%3E|'", id="symbols-in-path"),
        pytest.param("http://a.test/?<{\"`^}>|'", "http://a.test/?%3C{%22`^}%3E|%27", id="symbols-in-query"),
        pytest.param("http://example.com/é?é", "http://example.com/%C3%A9?%C3%A9", id="utf8"),
        pytest.param("http://example.com/a@b:c", "http://example.com/a@b:c", id="at-in-path"),
        pytest.param("http://exa%6Dple.c%6fm/", "http://example.com/", id="escapes-in-host"),
        pytest.param("http://bücher.example/", "http://xn--bcher-kva.example/", id="international-name"),
        pytest.param("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/", id="international-name-escaped"),
        pytest.param("http://BÜCHER。example/", "http://xn--bcher-kva.example/", id="international-dot"),
        pytest.param("http://faß.example/", "http://xn--fa-hia.example/", id="sharp-s"),
        pytest.param("http://i\u2764.example/", "http://xn--i-7iq.example/", id="emoji"),
        pytest.param("http://\U0001fae8.example/", "http://xn--929h.example/", id="younger-emoji"),
        pytest.param("http://my_bucket.example/", "http://my_bucket.example/", id="underscore"),
        pytest.param("http://[2001:DB8:0::1]:80/", "http://[2001:db8::1]/", id="v6"),
        pytest.param("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", id="mapped-v4"),
        pytest.param("http://127.0.0.1./", "http://127.0.0.1/", id="v4-trailing-dot"),
        pytest.param("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/", id="fullwidth-v4-is-that-address"),
        pytest.param("http://127\u30020\uff0e0\uff611/", "http://127.0.0.1/", id="v4-with-international-dots"),
        pytest.param("http://%31%32%37.1/", "http://127.0.0.1/", id="escaped-v4"),
        pytest.param("http://2130706433/", "http://127.0.0.1/", id="decimal-v4"),
        pytest.param("http://0177.0.0.1/", "http://127.0.0.1/", id="octal-v4"),
        pytest.param("http://0x7f.1/", "http://127.0.0.1/", id="hex-v4"),
        pytest.param("http://0X7F000001/", "http://127.0.0.1/", id="hex-number-v4"),
        pytest.param("http://127.0x0.0.0X1/", "http://127.0.0.1/", id="hex-last-v4"),
        pytest.param("http://127.1/", "http://127.0.0.1/", id="short-v4"),
        pytest.param("http://0/", "http://0.0.0.0/", id="zero"),
    ],
)
def test_rebuilt(text: str, rebuilt: str) -> None:
    """What browsers take is rebuilt in their one spelling, without changing the escapes of its path and query."""
    assert rebuilt == str(parse_url(text))


def test_length_counts_what_was_sent() -> None:
    """The limit is for the URL as it was written; what escaping adds has a limit of its own."""
    text = "http://example.com/" + "\u00e9" * 2000

    assert "/" + "%C3%A9" * 2000 == parse_url(text).target


def test_refusal_keeps_secrets() -> None:
    """The message repeats neither credentials nor query."""
    with pytest.raises(UrlNotAllowed, match="credentials") as caught:
        parse_url("http://user:hunter2@example.com/?token=hunter2")

    assert "hunter2" not in caught.value.message


@given(ANY_TEXT | URL_LIKE | HTTP_LIKE)
@example("http://\ud800/")
@example("http://xn--/")
@example("http://a/?\x7f")
def test_any_text_is_refused_or_rebuilt(text: str) -> None:
    """Any text is refused with UrlNotAllowed, or rebuilt into a URL of visible ASCII that parses to itself."""
    try:
        url = parse_url(text)
    except UrlNotAllowed:
        return

    assert url == parse_url(str(url))
    assert VISIBLE.fullmatch(str(url))


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        pytest.param(b"/b.png", "http://example.com:443/b.png", id="path"),
        pytest.param(b"b.png?x", "http://example.com:443/dir/b.png?x", id="relative"),
        pytest.param(b"?x", "http://example.com:443/dir/a.png?x", id="query-alone"),
        pytest.param(b"../../c", "http://example.com:443/c", id="dot-segments"),
        pytest.param(b"\\b", "http://example.com:443/b", id="backslash"),
        pytest.param(b"//other.com/b", "http://other.com/b", id="scheme-relative"),
        pytest.param(b"https://other.com/b#c", "https://other.com/b", id="absolute"),
        pytest.param(b"https:other.com", "https://other.com/", id="absolute-without-slashes"),
        pytest.param(b"http:c", "http://example.com:443/dir/c", id="relative-with-scheme"),
        pytest.param(b" /b ", "http://example.com:443/b", id="surrounding-spaces"),
        pytest.param(b"/a b", "http://example.com:443/a%20b", id="space"),
        pytest.param(b"/a\tb\r\n c", "http://example.com:443/ab%20c", id="tab-and-newline"),
        pytest.param("/é".encode(), "http://example.com:443/%C3%A9", id="utf8-bytes"),
        pytest.param("/é?é".encode("latin-1"), "http://example.com:443/%E9?%E9", id="latin-1-bytes"),
        pytest.param("http://bücher.example/".encode(), "http://xn--bcher-kva.example/", id="utf8-name"),
        pytest.param(b"/%2f%C3%a9", "http://example.com:443/%2f%C3%a9", id="escapes-kept"),
    ],
)
def test_location(location: bytes, expected: str) -> None:
    """A redirect's Location is resolved against the URL that answered, and bytes of any encoding reach the server."""
    base = Url("http", "example.com", 443, "/dir/a.png")

    assert expected == str(resolve_location(base, location))


@pytest.mark.parametrize(
    "location",
    [
        pytest.param(b"file:///etc/passwd", id="file"),
        pytest.param(b"http://a@b/", id="user"),
        pytest.param(b"//a:b@c/", id="credentials"),
        pytest.param(b"http://[::1", id="open-bracket"),
        pytest.param("http://bücher.example/".encode("latin-1"), id="latin-1-name"),
        pytest.param(b"/" + b"a" * 4096, id="too-long"),
    ],
)
def test_location_refused(location: bytes) -> None:
    """A redirect is held to the same rules as the first URL."""
    with pytest.raises(UrlNotAllowed):
        resolve_location(Url("http", "example.com", 80, "/"), location)


@given(ANY_TEXT.map(as_bytes) | URL_LIKE.map(as_bytes) | st.binary(max_size=60))
def test_any_location_is_refused_or_rebuilt(location: bytes) -> None:
    """Any Location is refused with UrlNotAllowed, or leads to a URL of visible ASCII that parses to itself."""
    try:
        url = resolve_location(Url("http", "example.com", 80, "/dir/a.png"), location)
    except UrlNotAllowed:
        return

    assert url == parse_url(str(url))
    assert VISIBLE.fullmatch(str(url))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        pytest.param("http://example.com/a", "example.com", id="plain"),
        pytest.param("HTTP:EXAMPLE.com\\a", "example.com", id="as browsers read it"),
        pytest.param("http://example.com?a", "example.com", id="no path"),
        pytest.param("http://example.com:8080/a", "example.com", id="port"),
        pytest.param("ftp://example.com/a", "", id="refused"),
    ],
)
def test_downloads_are_counted_by_the_host_that_is_asked(url: str, host: str) -> None:
    """Another spelling of a slow host is no other host."""
    assert host == host_of(url)
