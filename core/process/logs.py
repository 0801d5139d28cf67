"""Logging for entry points: one JSON object per line on standard error, fields from `extra`."""

import json
import logging
import time
import traceback
from pathlib import Path
from typing import Any

import orjson

_ROOT = Path(__file__).resolve().parent.parent.parent

# The innermost of each are what tells; the rest is gunicorn and threading.
_MAX_FRAMES = 12
_MAX_CHAIN = 5

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes time (UTC), level, logger, message and whatever `extra` brought.

    Of an exception it writes the kinds, innermost cause last, and where each came from. Not its message and no source
    line: a message holds whatever a stranger sent, a presigned URL for one.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            line["exceptions"] = _describe(record.exc_info[1])
        try:
            # A tenth of the time, and there is a line for each request.
            return orjson.dumps(line, default=str).decode()
        except TypeError:
            # Half a surrogate pair, or a number of more than 64 bits.
            return json.dumps(line, default=str)


def _describe(error: BaseException) -> list[dict[str, Any]]:
    """Kind and frames (file:line function, outermost first) of an exception and of what caused it."""
    described: list[dict[str, Any]] = []
    chain: BaseException | None = error
    while chain is not None and len(described) < _MAX_CHAIN:
        frames = traceback.extract_tb(chain.__traceback__, limit=-_MAX_FRAMES)
        described.append({"kind": type(chain).__name__, "frames": [_place(frame) for frame in frames]})
        chain = chain.__cause__ or chain.__context__
    return described


def _place(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename)
    return f"{path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path.name}:{frame.lineno} {frame.name}"


def logging_config(level: str) -> dict[str, Any]:
    """A `logging.config.dictConfig` mapping; gunicorn's own loggers join in."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "core.process.logs.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
        },
    }
