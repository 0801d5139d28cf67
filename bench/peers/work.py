"""What clients ask of other servers: the same pictures and texts, in the body that `litserve_clip` takes."""

import json
from dataclasses import dataclass

from bench.work import Request, text_of

_PATH = "/predict"


@dataclass(frozen=True, slots=True)
class LitServeImages:
    """One image per request."""

    urls: tuple[str, ...]

    def request(self, number: int) -> Request:
        url = f"{self.urls[number % len(self.urls)]}?{number}"
        return Request(_PATH, json.dumps({"image_url": url}).encode(), vectors=1)


@dataclass(frozen=True, slots=True)
class LitServeTexts:
    """One text of common words per request."""

    def request(self, number: int) -> Request:
        return Request(_PATH, json.dumps({"text": text_of(number)}).encode(), vectors=1)
