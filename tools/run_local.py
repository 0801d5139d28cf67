"""`make run` and `make run-serverless`: prepares what a first run needs (a secret, a model) and becomes the server.

It also leaves a note for `make smoke` in another terminal, which knows nothing of this one's environment.
Only here may another model stand in for the real one, and loudly: the production entry points never do that.
"""

import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from core.clip.artifact import open_model
from core.errors import StartError
from core.settings import DEFAULT_MODEL, load_settings

_ROOT = Path(__file__).resolve().parent.parent
_ENV_FILE = _ROOT / ".env"
_BUNDLED_MODEL = _ROOT / "models" / "tiny-shapes"
_SECRET = "EMBEDDING_HMAC_SECRET"  # noqa: S105 - the variable's name
# What says how requests are signed.
_SIGNING = (_SECRET, "ALLOW_INSECURE_AUTH")

_HUB_TIMEOUT_S = 5.0

_POD = ["-m", "gunicorn", "-c", "pod/gunicorn_conf.py", "pod.wsgi:app"]
# The SDK's own local server: no queue, no authentication of its own, one job at a time.
_SERVERLESS = ["-m", "serverless.handler", "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port"]

_STAND_IN_WARNING = f"""
**********************************************************************************************
  {DEFAULT_MODEL} is not here and could not be fetched.
  Serving models/tiny-shapes instead: it knows coloured circles, squares and triangles only.
  For real vectors set CLIP_MODEL to a model directory, or run once with network access.
**********************************************************************************************
"""


def main(target: str) -> None:
    """Replace this process by the server, so that signals reach it directly."""
    os.chdir(_ROOT)
    share_secret(os.environ, _ENV_FILE)
    choose_model(os.environ)
    os.environ.setdefault("HOST", "127.0.0.1")
    os.environ.setdefault("API_DOCS", "1")
    # A developer's images lie on this machine; the default of the service itself is to allow no such address.
    os.environ.setdefault("DOWNLOAD_ALLOW_HOSTS", "127.0.0.1,localhost")
    if target == "pod":
        arguments, port = _POD, os.environ.get("PORT", "8000")
    else:
        port = os.environ.get("SERVERLESS_PORT", "8001")
        arguments = [*_SERVERLESS, port]
    note_run(os.environ, port, _ENV_FILE)
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - no shell


def share_secret(environ: MutableMapping[str, str], env_file: Path) -> None:
    """Take the secret from the environment, else from `env_file`, which is made on first use for its owner only.

    A service that starts without one (ALLOW_INSECURE_AUTH) is to be open, and gets none.
    """
    if environ.get(_SECRET) or _starts_as_it_is(environ):
        return
    if not env_file.exists():
        _write_for_owner(env_file, f"{_SECRET}={secrets.token_hex(32)}\n")
        print(f"made a random {_SECRET} in {env_file.name}", file=sys.stderr)
    for line in env_file.read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and name.strip() == _SECRET:
            environ[_SECRET] = value.strip()


def note_run(environ: Mapping[str, str], port: str, env_file: Path) -> None:
    """Write beside `env_file`, for its owner only, how requests to this process at `port` are signed.

    `.env` is not the place: it is the user's, and a secret of one run must not become that of all later ones. The note
    counts while this process lives, whose id the server keeps.
    """
    note = env_file.parent / ".cache" / "run" / f"{port}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    signing = {name: environ[name] for name in _SIGNING if environ.get(name)}
    note.unlink(missing_ok=True)
    _write_for_owner(note, json.dumps({"pid": os.getpid(), "environ": signing}))


def choose_model(environ: MutableMapping[str, str]) -> None:
    """Use the model that is named, else the real one if it can be had, else the bundled one with a warning."""
    if environ.get("CLIP_MODEL") or environ.get("MODEL_NAME"):
        return
    print(f"looking for {DEFAULT_MODEL} ...", file=sys.stderr)
    try:
        open_model(DEFAULT_MODEL, offline=not _hub_answers())
    except StartError:
        print(_STAND_IN_WARNING, file=sys.stderr)
        environ["CLIP_MODEL"] = str(_BUNDLED_MODEL)


def _starts_as_it_is(environ: Mapping[str, str]) -> bool:
    try:
        load_settings(environ)
    except StartError:
        return False
    return True


def _write_for_owner(path: Path, text: str) -> None:
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)


def _hub_answers() -> bool:
    """One quick question: the hub's own client repeats itself for half a minute where there is no network."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(ENDPOINT, timeout=_HUB_TIMEOUT_S).close()  # noqa: S310 - the hub's https address
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])
