"""gunicorn's logger without its access line: the service writes its own, with the error code and without the URL."""

from typing import Any

from gunicorn.glogging import Logger


class QuietLogger(Logger):
    """A level would not do: gunicorn formats every field of the line before it asks whether anybody wants it."""

    def access(self, *_of_request: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
        return
