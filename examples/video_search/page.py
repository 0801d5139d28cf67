"""The search page: words or a picture in, scenes out, best first. Reads the index, and asks the client for a vector.

For people on this machine: it listens on loopback, and answers to no other name.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_embedding_client import (
    ClientSettings,
    ClipClient,
    ClipClientError,
    Embedding,
    FingerprintMismatch,
    UnavailableError,
)
from flask import Flask, Response, abort, render_template, request, send_file, send_from_directory
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, make_server

from examples.video_search.store import Found, MixedModels, Store

PORT = 8080
MOST_FOUND = 12
MAX_PICTURE_BYTES = 10 * 1024 * 1024
# Of a search, both backends together: a person waits, for a serverless worker that has to start too.
TIMEOUT_S = 60.0
MIME_TYPES = {".webm": "video/webm", ".mkv": "video/x-matroska", ".ogv": "video/ogg", ".mov": "video/quicktime"}

_ANSWERS_NOT = "The embedding service does not answer. Start it, and search again."
_OTHER_MODEL = "The service has another model now than the one that made this index: serve that one, or index again."
_REFUSALS = {
    404: "There is nothing here. A video may have been moved since it was indexed.",
    413: f"The picture is too large: at most {MAX_PICTURE_BYTES // 1024**2} MiB.",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Views:
    """`primary` is the backend that should answer; `example` is a search to begin with."""

    store: Store
    client: ClipClient
    primary: str
    example: str

    def by_words(self) -> tuple[str, int]:
        query = request.args.get("q", "").strip()
        if not query:
            return self._page()
        return self._answer(query, lambda: self.client.embed_text(query, timeout=TIMEOUT_S, max_retries=1))

    def by_picture(self) -> tuple[str, int]:
        content = request.files["picture"].read() if "picture" in request.files else b""
        if not content:
            return self._page(400, error="Choose a picture first.")
        return self._answer("", lambda: self.client.embed_image(content, timeout=TIMEOUT_S, max_retries=1))

    def thumbnail(self, name: str) -> Response:
        return send_from_directory(self.store.thumbnails, name)

    def video(self, video_id: str) -> Response:
        """By its id and never by its path: only what is in the index can be had. In ranges, or no player could seek."""
        known = self.store.videos().get(video_id)
        if known is None or not known.path.is_file():
            abort(404)
        mimetype = MIME_TYPES.get(known.path.suffix.lower(), "video/mp4")
        # Named and tagged by us: a file's own name can be what no header may hold.
        return send_file(known.path, mimetype=mimetype, download_name="video", etag=video_id, conditional=True)

    def refused(self, error: HTTPException) -> tuple[str, int]:
        status = error.code or 500
        return self._page(status, error=_REFUSALS.get(status, error.name))

    def _answer(self, query: str, embed: Callable[[], Embedding]) -> tuple[str, int]:
        try:
            embedding = embed()
            found = self.store.search(embedding, MOST_FOUND)
        except UnavailableError as error:
            return self._page(503, query=query, error=f"{_ANSWERS_NOT} ({error.code})")
        except (FingerprintMismatch, MixedModels):
            return self._page(409, query=query, error=_OTHER_MODEL)
        except ClipClientError as error:
            return self._page(400, query=query, error=f"{error.message} ({error.code})")
        return self._page(query=query, found=found, backend=embedding.backend)

    def _page(
        self, status: int = 200, *, query: str = "", found: Sequence[Found] = (), backend: str = "", error: str = ""
    ) -> tuple[str, int]:
        shown = {"query": query, "found": found, "backend": backend, "error": error, "scenes": self.store.count()}
        fixed = {"primary": self.primary, "example": self.example, "max_bytes": MAX_PICTURE_BYTES}
        return render_template("page.html", **shown, **fixed), status


def create_app(store: Store, client: ClipClient, *, primary: str, example: str = "a dog on a beach") -> Flask:
    """Make the page over an index; `client` gives it the vectors of what is searched."""
    app, views = Flask(__name__), Views(store, client, primary, example)
    # The file, and what is around it in a form.
    app.config["MAX_CONTENT_LENGTH"] = MAX_PICTURE_BYTES + 64 * 1024
    # Another site's name that leads here (DNS rebinding) must not read the videos.
    app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    app.jinja_env.filters["timecode"] = timecode
    app.add_url_rule("/", view_func=views.by_words)
    app.add_url_rule("/", view_func=views.by_picture, methods=["POST"])
    app.add_url_rule("/thumbnails/<path:name>", view_func=views.thumbnail)
    app.add_url_rule("/videos/<video_id>", view_func=views.video)
    app.register_error_handler(HTTPException, views.refused)
    app.after_request(_with_headers)
    return app


def _with_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response


def timecode(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some: 0:07, 1:02:03."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"


def server(app: Flask, port: int) -> BaseWSGIServer:
    """Return a server that listens on loopback, for `serve_forever`. A port of 0 is any free one."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # what people search is nobody's business
    return make_server("127.0.0.1", port, app, threaded=True)


def main() -> None:
    """Serve until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.video_search.page", description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="the folder of the index")
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s")
    options = parser.parse_args()
    store, settings = Store(options.index), ClientSettings.from_environ()
    with ClipClient(store.accepting(settings)) as client:
        app = create_app(store, client, primary=settings.clip_inference_backend.value)
        print(f"http://127.0.0.1:{options.port}/")
        server(app, options.port).serve_forever()


if __name__ == "__main__":
    main()
