"""`/`, and with API_DOCS=1 `/openapi.json` and `/docs`: Swagger UI's own files, and a page of ours that signs.

All of it is read when the application is made, so that no view waits for a disk; nothing comes from another host.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files

from flask import Response

from core.service import VERSION
from core.settings import ServiceSettings
from core.wire.responses import Body
from core.wire.strict_json import encode
from pod.openapi import NAME, document

View = Callable[[], Response]

_JSON = "application/json"
_SCRIPT = "text/javascript; charset=utf-8"
_STYLE = "text/css; charset=utf-8"

# The page's secret must have no way out: no script, style, picture or connection but this service's own. Swagger UI has
# icons as `data:` in its style sheet.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The files change with the service's version, their names do not.
    "Cache-Control": "no-cache",
}

# path -> the package that has the file, where it lies there, and its type.
_FILES: Mapping[str, tuple[str, str, str]] = {
    "/docs": ("pod", "static/page.html", "text/html; charset=utf-8"),
    "/docs/page.css": ("pod", "static/page.css", _STYLE),
    "/docs/page.js": ("pod", "static/page.js", _SCRIPT),
    "/docs/signing.js": ("pod", "static/signing.js", _SCRIPT),
    "/docs/swagger-ui.css": ("flask_swagger_ui", "dist/swagger-ui.css", _STYLE),
    "/docs/swagger-ui-bundle.js": ("flask_swagger_ui", "dist/swagger-ui-bundle.js", _SCRIPT),
    "/docs/favicon-32x32.png": ("flask_swagger_ui", "dist/favicon-32x32.png", "image/png"),
}


def views(settings: ServiceSettings) -> dict[str, View]:
    """The view of each path, all for GET."""
    index = {"/": _answering(encode(_index(settings)), _JSON)}
    if not settings.api_docs:
        return index
    described = {"/openapi.json": _answering(encode(document(settings)), _JSON)}
    pages = {path: _answering(_read(package, name), kind) for path, (package, name, kind) in _FILES.items()}
    return index | described | pages


def _index(settings: ServiceSettings) -> Body:
    links = {"health": "/health"}
    if settings.api_docs:
        links |= {"openapi": "/openapi.json", "docs": "/docs"}
    return {"name": NAME, "version": VERSION, "links": links}


def _read(package: str, name: str) -> bytes:
    return files(package).joinpath(name).read_bytes()


def _answering(body: bytes, content_type: str) -> View:
    return lambda: Response(body, content_type=content_type, headers=_HEADERS)
