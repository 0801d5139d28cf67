"""Takes the picture in the documents: `python -m tests.examples.video_search.picture docs/images/video-search.png`."""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from examples.video_search.store import Store
from models.shapes_video import EXAMPLE, make_video
from tests.examples.video_search.site import index, settings, site, wait_until
from tools.testbed import browser
from tools.testbed.process import pod_process

# Few colours: a third of the bytes, and nobody sees it.
COLOURS = 128


def main(target: Path) -> None:
    """Search the drawn video with the bundled model, and write what a reader of the page sees."""
    with tempfile.TemporaryDirectory() as folder, pod_process() as pod:
        video, store = Path(folder, "drawn.webm"), Store(Path(folder, "index"))
        make_video(video)
        given = settings(pod.base_url)
        index(video, store, given)
        with site(store, given) as shown, browser.page() as page:
            page.goto(f"{shown.base_url}/?q={EXAMPLE}")
            wait_until(page, "document.querySelector('video').currentTime > 0.5")
            wait_until(page, "[...document.images].every((image) => image.complete)")
            page.screenshot(path=target)
    Image.open(target).quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
