"""The client's settings: given by keyword, or read from the environment once; a wrong one names its variable."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from clip_embedding_client.errors import ConfigurationError
from clip_embedding_client.old_names import warn_of_old_names
from clip_embedding_client.signing.contract import IMAGES_PER_BATCH

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}
# Of waiting: eleven days. What an operating system's timers take ends somewhere above.
MOST_SECONDS = 1_000_000
_DIGITS = re.compile(r"[0-9]{1,9}")
_LARGEST = 999_999_999
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]+|\.")
_OLD_SERVERLESS_NAME = "runpod"
_BACKEND_VARIABLES = ("clip_inference_backend", "clip_fallback_backend")
# Each may lie in a file, which the variable of its name and this names.
_SECRETS = ("embedding_hmac_secret", "runpod_api_key")
_FILE_SUFFIX = "_file"
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

Value = TypeVar("Value")


class BackendName(str, Enum):
    """Where vectors come from."""

    POD = "runpod_pod"
    SERVERLESS = "runpod_serverless"
    LOCAL = "local"
    OFF = "off"


class _Wrong(Exception):
    """A value is not what a setting takes; the message says what it takes, and never the value, a secret perhaps."""


def _positive(value: object) -> int:
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else 0
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        number = int(value)
    if not 1 <= number <= _LARGEST:
        raise _Wrong("must be a whole number, at least 1")
    return number


def _seconds(value: object) -> float:
    seconds = _float(value) if isinstance(value, (str, Real)) and not isinstance(value, bool) else math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise _Wrong(f"must be seconds, more than 0 and at most {MOST_SECONDS:,}")
    return seconds


def _float(value: str | Real) -> float:
    try:
        return float(value)
    # OverflowError: a whole number that no float can hold.
    except (ValueError, OverflowError):
        return math.nan


def _flag(value: object) -> bool:
    flag = None
    if isinstance(value, (str, int)):
        # Not by `str`: of a number without end it raises.
        flag = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else {1: True, 0: False}.get(value)
    if flag is None:
        raise _Wrong("must be 1 or 0")
    return flag


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong("must be a string")
    return value


def _secret(value: object) -> str:
    text = _text(value)
    # A lone surrogate, which a byte of the environment that is not UTF-8 becomes, cannot be signed with.
    if not text or any("\ud800" <= character <= "\udfff" for character in text):
        raise _Wrong("must be a string of valid Unicode that is not empty")
    return text


def _key(value: object) -> str:
    """It becomes a header: with a line break at its end, every request would fail as if the connection had."""
    text = _text(value)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise _Wrong("must be printable ASCII characters without spaces")
    return text


def _backend(value: object) -> BackendName:
    name = value.strip().lower() if isinstance(value, str) else None
    if name == _OLD_SERVERLESS_NAME:
        new = BackendName.SERVERLESS.value
        logger.warning("the backend name runpod is old, use %s", new, extra={"backend": new})
        name = new
    try:
        return BackendName(name)
    except ValueError as error:
        raise _Wrong(f"must be one of {', '.join(each.value for each in BackendName)}") from error


def _base_url(value: object) -> str:
    text = _text(value)
    # `urlsplit` takes line breaks out without a word, and not every name in other letters is one that can be asked for.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise _Wrong("must be a URL of printable ASCII characters (a host's name by its xn-- form) without spaces")
    try:
        parts = urlsplit(text)
        # A port that is none, and a name with an empty or overlong part, raise ValueError when they are looked at.
        host = (parts.hostname or "").encode("idna") if parts.port != 0 else None
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise _Wrong("must be an http or https URL with a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise _Wrong("must have no credentials, query or fragment")
    return text.rstrip("/")


def _endpoint_id(value: object) -> str:
    """It becomes a part of a path. A lone dot is the SDK's local server, which has no such part."""
    if not _ENDPOINT_ID.fullmatch(_text(value)):
        raise _Wrong("must be an endpoint's id (letters and digits), or . for a local server")
    return _text(value)


def _setting(parse: Callable[[object], Value], words: str, default: Any, *, secret: bool = False) -> Any:  # noqa: ANN401
    """A field with how it is read and what it means, which docs/settings.md is written from."""
    return field(default=default, repr=not secret, metadata=_read(parse, words))


def _read(parse: Callable[[object], Value], words: str) -> dict[str, Any]:
    return {"parse": parse, "words": words}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """One field per environment variable, of the same name in capitals. Raises `ConfigurationError` when made."""

    # Not `_setting`, which type checkers take for a default: this one must be given.
    clip_inference_backend: BackendName = field(
        metadata=_read(_backend, "`runpod_pod`, `runpod_serverless`, `local` (the core in this process) or `off`.")
    )
    clip_fallback_backend: BackendName | None = _setting(
        _backend, "Who answers what the first one cannot: one of the same, or empty.", None
    )

    embedding_hmac_secret: str | None = _setting(_secret, "The service's secret.", None, secret=True)
    allow_insecure_auth: bool = _setting(_flag, "1 sends unsigned requests when there is no secret.", False)

    clip_pod_base_url: str | None = _setting(_base_url, "The pod, or a load-balancing endpoint.", None)
    clip_pod_timeout_s: float = _setting(_seconds, "One attempt at the pod.", 60.0)

    runpod_api_key: str | None = _setting(_key, "Sent over https only, except to this machine.", None, secret=True)
    runpod_clip_endpoint_id: str | None = _setting(_endpoint_id, "The endpoint; `.` is a local server.", None)
    runpod_base_url: str = _setting(_base_url, "Where jobs are sent.", "https://api.runpod.ai/v2")
    runpod_timeout_s: float = _setting(
        _seconds,
        "One attempt at the endpoint. RunPod names a job that has not ended after 90 s, or some seconds before a"
        " shorter time is over; what has no name yet cannot be cancelled.",
        120.0,
    )

    clip_connect_timeout_s: float = _setting(_seconds, "One connection.", 5.0)
    clip_retry_attempts: int = _setting(
        _positive, "Of a call, or of an item of a batch, at one backend; `max_retries` of a call is one less.", 4
    )
    clip_total_timeout_s: float = _setting(
        _seconds,
        "Of a call at both backends together, with all pauses; the primary leaves the fallback one attempt. `timeout`"
        " of a call.",
        180.0,
    )

    clip_batch_size: int = _setting(
        _positive, "Images in one request, at most the service's `MAX_BATCH_SIZE`.", IMAGES_PER_BATCH
    )
    clip_text_batch_size: int = _setting(
        _positive, "Texts in one request, at most the service's `MAX_TEXT_BATCH_SIZE`.", 64
    )
    clip_concurrent_batches: int = _setting(_positive, "Of one `embed_images` or `iter_images`, or of texts.", 4)

    clip_breaker_failures: int = _setting(
        _positive, "Calls in a row that failed after all their attempts, until the fallback gets every call.", 2
    )
    clip_breaker_cool_down_s: float = _setting(_seconds, "How long it gets them.", 30.0)
    clip_expected_fingerprint: str | None = _setting(
        _text, "Refuse vectors of any other model, from either backend.", None
    )
    clip_allow_fingerprint_mismatch: bool = _setting(_flag, "1 mixes vectors that cannot be compared.", False)

    # What the `local` backend passes on to the service in this process. Holds secrets, hence no repr.
    local_environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if "parse" in each.metadata and value is not each.default:
                object.__setattr__(self, each.name, _parsed(each.name, each.metadata["parse"], value))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings from `environ`, os.environ if None; a variable that is set to nothing counts as not set.

        Raises `ConfigurationError` with one line that names the variable.
        """
        environ = os.environ if environ is None else environ
        set_ones = {name.lower(): value for name, value in environ.items() if value != ""}
        warn_of_old_names(set_ones)
        known = {each.name for each in fields(cls) if "parse" in each.metadata}
        given: dict[str, Any] = {name: value for name, value in set_ones.items() if name in known}
        given |= {name: _mounted(name, set_ones[name + _FILE_SUFFIX]) for name in _in_files(set_ones)}
        if "clip_inference_backend" not in given:
            raise ConfigurationError("CLIP_INFERENCE_BACKEND is not set")
        given["local_environ"] = dict(environ) if _wants_local(given) else {}
        return cls(**given)

    def backends(self) -> list[BackendName]:
        """The chosen backend, then the fallback if there is one; `off` is none."""
        fallback = self.clip_fallback_backend
        return [self.clip_inference_backend, *([fallback] if fallback not in (None, BackendName.OFF) else [])]

    def reserve_s(self, fallback: BackendName) -> float:
        """Return the seconds of a call that the primary leaves to the fallback: those of one whole attempt there.

        A primary that hangs would use up all of them, and the fallback would never be asked.
        """
        attempt_s = {BackendName.POD: self.clip_pod_timeout_s, BackendName.SERVERLESS: self.runpod_timeout_s}
        return attempt_s.get(fallback, self.clip_total_timeout_s)


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine, where nobody else listens."""
    return urlsplit(url).hostname in _LOOPBACK_HOSTS


def _parsed(name: str, parse: Callable[[object], Value], value: object) -> Value:
    try:
        return parse(value)
    except _Wrong as error:
        raise ConfigurationError(f"{name.upper()}: {error}") from error


def _in_files(given: Mapping[str, str]) -> list[str]:
    """The secrets that lie in files. Raises `ConfigurationError` for one that is given both ways."""
    found = [name for name in _SECRETS if name + _FILE_SUFFIX in given]
    for name in found:
        if name in given:
            raise ConfigurationError(f"{name.upper()} and {(name + _FILE_SUFFIX).upper()} are both set: set one")
    return found


def _mounted(name: str, path: str) -> str:
    variable = (name + _FILE_SUFFIX).upper()
    try:
        secret = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigurationError(f"{variable}: the file cannot be read: {reason}") from error
    if not secret:
        raise ConfigurationError(f"{variable}: the file is empty")
    return secret


def _wants_local(given: Mapping[str, str]) -> bool:
    return any(given.get(name, "").strip().lower() == BackendName.LOCAL.value for name in _BACKEND_VARIABLES)
