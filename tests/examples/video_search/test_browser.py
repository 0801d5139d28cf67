"""The page as a person has it: in a real browser, over a real pod, with a video that really plays."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page

from examples.video_search.page import MAX_PICTURE_BYTES
from examples.video_search.store import Store
from models.shapes import Background, draw, single
from tests.examples.video_search.site import (
    NOWHERE,
    Site,
    index,
    local_handler,
    settings,
    site,
    wait_until,
    with_fallback,
    write_video,
)
from tools.testbed import browser
from tools.testbed.pictures import encoded
from tools.testbed.process import PodProcess, pod_process

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here: `make browser` installs it")

DROP = """([encoded, name, repeat]) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(Array(repeat).fill(bytes), name, { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""
# The colour in the middle of what the player shows.
SHOWN_COLOUR = """() => {
  const player = document.querySelector("video"), canvas = document.createElement("canvas");
  canvas.width = player.videoWidth; canvas.height = player.videoHeight;
  const context = canvas.getContext("2d");
  context.drawImage(player, 0, 0);
  return [...context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data.slice(0, 3)];
}"""
RED, GREEN, BLUE = range(3)
# How late a player on a busy machine pauses.
SLACK_S = 1.0


class Visit:
    """A page that is open in a browser, with everything that it has complained of."""

    def __init__(self, page: Page, served: Site) -> None:
        self.page = page
        self.base_url = served.base_url
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def search(self, words: str) -> None:
        """Type the words, and press Enter."""
        self.page.fill("input[type=search]", words)
        with self.page.expect_navigation():
            self.page.press("input[type=search]", "Enter")

    def drop(self, content: bytes, *, repeat: int = 1) -> None:
        """Drop a picture on the page."""
        self.page.evaluate(DROP, [base64.b64encode(content).decode(), "picture.png", repeat])

    @property
    def scenes(self) -> Locator:
        return self.page.locator("ol a")

    def wait_for_play_within(self, start_s: int, end_s: int) -> None:
        """Until the player has played some of the scene, and nothing before it."""
        wait_until(self.page, f"document.querySelector('video').currentTime > {start_s + 0.3}")
        began_s, now_s = self.page.evaluate(
            "(({ played, currentTime }) => [played.start(0), currentTime])(document.querySelector('video'))"
        )
        assert start_s <= began_s < now_s <= end_s + SLACK_S

    def shown_channel(self) -> int:
        """The strongest of red, green and blue in the middle of the picture."""
        colour = self.page.evaluate(SHOWN_COLOUR)
        return int(colour.index(max(colour)))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One browser for the module; while it is open nothing else here may run an event loop."""
    with browser.page() as page:
        yield page


@pytest.fixture
def visit(page: Page, served: Site) -> Visit:
    """The page as it is at first."""
    visit = Visit(page, served)
    page.goto(served.base_url)
    return visit


def test_words_find_the_scene_and_it_plays(visit: Visit) -> None:
    """From its first second, with the scene's picture, and the place in the video is marked."""
    visit.search("a blue square")
    visit.wait_for_play_within(2, 4)

    assert BLUE == visit.shown_channel()
    assert "0:02 \u2013 0:04" in visit.scenes.first.inner_text()
    assert "true" == visit.scenes.first.get_attribute("aria-current")
    assert "drawn.webm, 0:02 \u2013 0:04" == visit.page.inner_text("#caption")
    assert ("2.0", "2", "0 0 45.0 1") == (
        visit.page.get_attribute("rect", "x"),
        visit.page.get_attribute("rect", "width"),
        visit.page.get_attribute("svg", "viewBox"),
    )
    assert "runpod_pod" == visit.page.inner_text("#backend")


def test_player_pauses_where_the_scene_ends(visit: Visit) -> None:
    """What follows is another scene."""
    visit.search("a blue square")
    wait_until(visit.page, "document.querySelector('video').currentTime > 3.9")
    wait_until(visit.page, "document.querySelector('video').paused")

    assert visit.page.evaluate("document.querySelector('video').currentTime") <= 4 + SLACK_S


def test_another_scene_plays_when_it_is_chosen(visit: Visit) -> None:
    """With the mouse or with the keyboard; the page stays."""
    visit.search("a red circle")
    address = visit.page.url
    visit.scenes.filter(has_text="0:20 \u2013").click()
    visit.wait_for_play_within(20, 22)
    visit.scenes.filter(has_text="0:27 \u2013").press("Enter")
    visit.wait_for_play_within(27, 29)

    assert GREEN == visit.shown_channel()
    assert address == visit.page.url
    assert 1 == visit.page.locator("[aria-current]").count()


def test_address_is_a_search(visit: Visit) -> None:
    """It can be kept and sent."""
    visit.page.goto(visit.base_url + "/?q=a+red+circle")
    visit.wait_for_play_within(0, 2)

    assert ("a red circle", RED) == (visit.page.input_value("input[type=search]"), visit.shown_channel())


def test_picture_that_is_dropped_is_searched(visit: Visit) -> None:
    """Anywhere on the page."""
    visit.drop(encoded(draw(single("green", "circle"), 128), "PNG"))
    visit.page.wait_for_selector("h1")
    visit.wait_for_play_within(27, 29)

    assert ("Scenes like your picture", GREEN) == (visit.page.inner_text("h1"), visit.shown_channel())


def test_picture_that_is_too_large_stays_here(visit: Visit) -> None:
    """The reader learns it before it is sent."""
    visit.drop(bytes(1024 * 1024), repeat=MAX_PICTURE_BYTES // 1024**2 + 1)

    assert "The picture is too large." == visit.page.inner_text("#error")
    assert visit.base_url + "/" == visit.page.url


def test_page_is_quiet_and_keeps_to_its_host(visit: Visit) -> None:
    """Nothing breaks its own policy, and no other host is asked."""
    visit.search("a red circle")
    visit.wait_for_play_within(0, 2)
    visit.drop(encoded(draw(single("green", "circle"), 128), "PNG"))
    visit.page.wait_for_selector("h1:has-text('picture')")

    assert ([], {visit.base_url.removeprefix("http://")}) == (visit.complaints, visit.hosts - {""})


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        pytest.param(360, "light", id="phone"),
        pytest.param(360, "dark", id="phone, dark"),
        pytest.param(1100, "dark", id="dark"),
    ],
)
def test_page_fits_and_can_be_read(visit: Visit, width: int, scheme: str) -> None:
    """No sideways scrolling on a phone, and dark on light or light on dark as the reader has it."""
    visit.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    visit.page.set_viewport_size({"width": width, "height": 740})
    try:
        visit.search("a red circle")
        visit.page.wait_for_selector("h1")
        overflow = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        ground, ink = visit.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
    finally:
        visit.page.emulate_media(color_scheme="light")
        visit.page.set_viewport_size({"width": 1100, "height": 800})

    def brightness(colour: str) -> int:
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert overflow <= 0
    assert (brightness(ground) < brightness(ink)) == (scheme == "dark")


def test_film_of_a_camera_plays(page: Page, pod: PodProcess, tmp_path: Path) -> None:
    """H.264 in MP4, with its index at the end of the file, as cameras leave it."""
    if not page.evaluate("""document.createElement("video").canPlayType('video/mp4; codecs="avc1.42E01E"')"""):
        pytest.skip("this Chromium plays no H.264")
    dark = Background((24, 24, 28), (24, 24, 28))
    red, blue = single("red", "circle", aspect=4 / 3), single("blue", "square", aspect=4 / 3)
    film = [draw(red, 240)] * 36 + [draw(replace(blue, background=dark), 240)] * 36
    store, given = Store(tmp_path / "index"), settings(pod.base_url)
    index(write_video(tmp_path / "film.mp4", film), store, given)
    with site(store, given) as served:
        visit = Visit(page, served)
        page.goto(served.base_url)
        visit.search("a blue square")
        visit.wait_for_play_within(3, 6)
        shown = visit.shown_channel()
        page.goto("about:blank")

    assert (BLUE, 2) == (shown, store.count())


def test_video_that_is_gone_is_named(visit: Visit) -> None:
    """The player says it in words, and the search still works."""
    visit.search("a red circle")
    visit.scenes.first.evaluate("scene => { scene.href = '/videos/gone#t=1,2' }")
    visit.scenes.first.click()
    wait_until(visit.page, "!document.getElementById('error').hidden")

    assert "This browser cannot play this video." == visit.page.inner_text("#error")


def test_pod_that_is_killed_costs_no_search(page: Page, indexed: Store) -> None:
    """The handler answers, and the page says so."""
    with (
        local_handler() as handler_url,
        pod_process() as pod,
        site(indexed, settings(pod.base_url, **with_fallback(handler_url))) as served,
    ):
        visit = Visit(page, served)
        page.goto(served.base_url)
        visit.search("a red circle")
        before = page.inner_text("#backend")
        pod.kill()
        visit.search("a blue square")
        visit.wait_for_play_within(2, 4)
        after, words = page.inner_text("#backend"), page.inner_text("section .quiet >> nth=0")
        page.goto("about:blank")

    assert ("runpod_pod", "runpod_serverless") == (before, after)
    assert "the fallback, in place of runpod_pod" in words


def test_service_that_is_down_is_said_and_comes_back(page: Page, indexed: Store, pod: PodProcess) -> None:
    """The words are kept; once the service is there again, so are the scenes."""
    with site(indexed, settings(NOWHERE)) as down, site(indexed, settings(pod.base_url)) as up:
        page.goto(down.base_url)
        Visit(page, down).search("a red circle")
        said, kept = page.inner_text("[role=alert]"), page.input_value("input[type=search]")
        page.goto(page.url.replace(down.base_url, up.base_url))
        found = page.locator("ol a").count()
        page.goto("about:blank")

    assert "The embedding service does not answer." in said
    assert ("a red circle", 12) == (kept, found)


def test_empty_index_is_said(page: Page, tmp_path: Path, pod: PodProcess) -> None:
    """Instead of a page without anything."""
    with site(Store(tmp_path / "index"), settings(pod.base_url)) as served:
        page.goto(served.base_url)
        words = page.inner_text("main")
        page.goto("about:blank")

    assert "Nothing is indexed yet." in words
