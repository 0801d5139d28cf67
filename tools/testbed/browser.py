"""A real browser without a screen: Debian's Chromium, driven by Playwright. `make browser` installs it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium")

# This machine under a name that browsers do not trust as they do localhost.
OTHER_NAME = "pod.test"

# Chromium's own business (updates, models, field trials) would be network that no page asked for. Its sandbox does not
# run as root, and nothing but our own page is opened.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    f"--host-resolver-rules=MAP {OTHER_NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@contextmanager
def page() -> Iterator[Page]:
    """An empty page with no history; its browser ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser.new_page(viewport={"width": 1100, "height": 800})
        finally:
            browser.close()
