"""The page without a browser: what it shows, and what strangers' names, bytes and hosts cannot make it do."""

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from clip_embedding_client import ClientSettings, ClipClient
from flask.testing import FlaskClient

from examples.video_search.page import MAX_PICTURE_BYTES, create_app, timecode
from examples.video_search.store import Store
from models.shapes import draw, single
from models.shapes_video import STORY, make_video
from tests.examples.video_search.site import NOWHERE, Site, index, settings
from tools.testbed.pictures import encoded
from tools.testbed.process import PodProcess


@contextmanager
def visitor(store: Store, given: ClientSettings) -> Iterator[FlaskClient]:
    with ClipClient(store.accepting(given)) as client:
        yield create_app(store, client, primary="runpod_pod").test_client()


@pytest.fixture
def page(indexed: Store, pod: PodProcess) -> Iterator[FlaskClient]:
    with visitor(indexed, settings(pod.base_url)) as client:
        yield client


def test_words_find_scenes(page: FlaskClient) -> None:
    """Best first, each with its time, its score and a link that plays it; and who has answered."""
    text = page.get("/?q=a+blue+circle").text

    assert 12 == text.count("<li>")
    assert "#t=17.0,20.0" in text[: text.index("</li>")]
    assert "0:17 \u2013 0:20" in text[: text.index("</li>")]
    assert 'Answered by <strong id="backend">runpod_pod</strong>.' in text


def test_average_says_so(page: FlaskClient) -> None:
    """The scene that changes has three thumbnails behind its one vector."""
    assert 1 == page.get("/?q=a+green+square").text.count("average of 3 frames")


def test_picture_finds_scenes(page: FlaskClient) -> None:
    """The best one shows what the picture shows."""
    content = encoded(draw(single("blue", "square"), 128), "PNG")
    text = page.post("/", data={"picture": (io.BytesIO(content), "../../a.png")}).text

    assert "#t=2.0,4.0" in text[: text.index("</li>")]


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        pytest.param({}, 400, "Choose a picture first.", id="no picture"),
        pytest.param({"picture": (io.BytesIO(b""), "a.png")}, 400, "Choose a picture first.", id="empty"),
        pytest.param({"picture": (io.BytesIO(b"no image"), "a.png")}, 400, "INVALID_IMAGE", id="no image"),
    ],
)
def test_picture_that_cannot_be_searched_is_explained(
    page: FlaskClient, data: dict[str, object], status: int, words: str
) -> None:
    """In the page, with a form to try again."""
    response = page.post("/", data=data)

    assert status == response.status_code
    assert words in response.text
    assert 'name="picture"' in response.text


@pytest.mark.parametrize("size_bytes", [MAX_PICTURE_BYTES + 100_000, 10 * MAX_PICTURE_BYTES])
def test_picture_that_is_too_large_is_explained(served: Site, size_bytes: int) -> None:
    """By the real server, to a browser that goes on sending."""
    response = requests.post(served.base_url, files={"picture": ("a.png", bytes(size_bytes))}, timeout=30)

    assert (413, True) == (response.status_code, "at most 10 MiB" in response.text)


def test_empty_index_says_so(tmp_path: Path, pod: PodProcess) -> None:
    """With and without a search."""
    with visitor(Store(tmp_path / "index"), settings(pod.base_url)) as page:
        texts = [page.get(path).text for path in ("/", "/?q=a+red+circle")]

    assert ["Nothing is indexed yet." in text for text in texts] == [True, True]


def test_service_that_is_down_is_named(indexed: Store) -> None:
    """The words stay in the field."""
    with visitor(indexed, settings(NOWHERE)) as page:
        response = page.get("/?q=a+red+circle")

    assert 503 == response.status_code
    assert "The embedding service does not answer." in response.text
    assert "CONNECTION_FAILED" in response.text
    assert 'value="a red circle"' in response.text


def test_other_model_is_explained(indexed: Store, other_pod: PodProcess) -> None:
    """Scores between vectors of two models would be numbers without a meaning."""
    with visitor(indexed, settings(other_pod.base_url)) as page:
        response = page.get("/?q=a+red+circle")

    assert (409, True) == (response.status_code, "another model" in response.text)
    assert "<li>" not in response.text


def test_markup_stays_text(page: FlaskClient) -> None:
    """Wherever the page repeats what was typed."""
    text = page.get("/", query_string={"q": "\"><script>alert('q')</script>{{ 7 * 7 }}"}).text

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#39;q&#39;)" in text
    assert "{{ 7 * 7 }}" in text


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of one scene."""
    path = tmp_path_factory.mktemp("short") / "short.webm"
    make_video(path, STORY[:1])
    return path


HOSTILE = [
    pytest.param(b"<img src=x onerror=alert(1)>.webm", "&lt;img src=x onerror=alert(1)&gt;.webm", id="markup"),
    pytest.param(b"\"' onmouseover='alert(1).webm", "&#34;&#39; onmouseover=&#39;alert(1).webm", id="quotes"),
    pytest.param(b"caf\xe9.webm", "caf\\xe9.webm", id="no text"),
    pytest.param(b"a b%2e%2e#?&.webm", "a b%2e%2e#?&amp;.webm", id="a URL's letters"),
    pytest.param(b"two\r\nX-Injected: 1\r\n.webm", "two\r\nX-Injected: 1\r\n.webm", id="a header"),
]


@pytest.mark.parametrize(("name", "shown"), HOSTILE)
def test_any_name_of_a_file_is_shown_and_played(
    name: bytes, shown: str, short: Path, pod: PodProcess, tmp_path: Path
) -> None:
    """As text, and by the video's id: the name is in no URL and no header."""
    path = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
    shutil.copy(short, path)
    store = Store(tmp_path / "index")
    index(path, store, settings(pod.base_url))
    with visitor(store, settings(pod.base_url)) as page:
        text = page.get("/?q=a+red+circle").text
        [link] = set(re.findall(r'href="(/videos/[0-9a-f]+)#', text))
        video = page.get(link, buffered=True)

    assert shown in text
    assert (200, short.read_bytes()) == (video.status_code, video.data)
    assert "X-Injected" not in video.headers


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/videos/nobody", id="no video"),
        pytest.param("/videos/..%2f..%2fetc%2fpasswd", id="a path for a video"),
        pytest.param("/videos/' OR 1=1 --", id="a query for a video"),
        pytest.param("/thumbnails/../lance/videos.lance/_versions", id="the database"),
        pytest.param("/thumbnails/%2e%2e/%2e%2e/%2e%2e/etc/passwd", id="dots"),
        pytest.param("/thumbnails//etc/passwd", id="absolute"),
        pytest.param("/thumbnails/" + "a" * 64 + "/0-0.jpg", id="no thumbnail"),
        pytest.param("/static/../page.py", id="the code"),
        pytest.param("/elsewhere", id="no page"),
    ],
)
def test_nothing_else_can_be_had(page: FlaskClient, path: str) -> None:
    """Neither by a path nor by anything that a database or a disk could take for one."""
    response = page.get(path, follow_redirects=True)

    assert 404 == response.status_code
    assert "There is nothing here." in response.text


def test_video_that_was_removed_is_not_found(short: Path, pod: PodProcess, tmp_path: Path) -> None:
    """The search still finds its scenes."""
    path, store = tmp_path / "holiday.webm", Store(tmp_path / "index")
    shutil.copy(short, path)
    index(path, store, settings(pod.base_url))
    path.unlink()
    with visitor(store, settings(pod.base_url)) as page:
        text = page.get("/?q=a+red+circle").text
        [link] = set(re.findall(r'href="(/videos/[0-9a-f]+)#', text))

        assert 1 == text.count("<li>")
        assert 404 == page.get(link).status_code


def test_video_is_served_in_ranges(served: Site, drawn: Path) -> None:
    """By the real server, as a player asks when someone seeks."""
    [video] = served.store.videos()
    response = requests.get(f"{served.base_url}/videos/{video}", headers={"Range": "bytes=1000-1999"}, timeout=30)

    content = drawn.read_bytes()
    assert (206, "video/webm") == (response.status_code, response.headers["Content-Type"])
    assert f"bytes 1000-1999/{len(content)}" == response.headers["Content-Range"]
    assert content[1000:2000] == response.content


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:8080", "127.0.0.1.attacker.example", ""])
def test_other_names_are_refused(served: Site, host: str) -> None:
    """A page elsewhere whose name leads to this machine reads nothing."""
    response = requests.get(served.base_url + "/?q=a+red+circle", headers={"Host": host}, timeout=30)

    assert 400 == response.status_code
    assert "<li>" not in response.text


@pytest.mark.parametrize("path", ["/", "/?q=a+red+circle", "/nowhere", "/static/page.js"])
def test_page_is_held_to_itself(page: FlaskClient, path: str) -> None:
    """No inline script or style, nothing from elsewhere, in no frame, for no other site."""
    headers = page.get(path, buffered=True).headers
    policy = headers["Content-Security-Policy"].split("; ")

    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert ("same-origin", "nosniff") == (
        headers["Cross-Origin-Resource-Policy"],
        headers["X-Content-Type-Options"],
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(0.0, "0:00", id="beginning"),
        pytest.param(59.9, "0:59", id="not rounded up"),
        pytest.param(60.0, "1:00", id="minute"),
        pytest.param(3723.0, "1:02:03", id="hours"),
    ],
)
def test_timecode(seconds: float, expected: str) -> None:
    """As players show it."""
    assert expected == timecode(seconds)
