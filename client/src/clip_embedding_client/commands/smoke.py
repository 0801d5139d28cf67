"""`clip-embed smoke`: checks a running or deployed target through the client, and prints what was checked.

The target is what the settings name. Only here do settings have local defaults: the addresses of the service's
`make run` and `make run-serverless`, and how requests to them are signed, which they note in their checkout. This
command finds that in the current directory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from clip_embedding_client.client import ClipClient
from clip_embedding_client.commands.smoke_image import red_square_png, serve_on_loopback
from clip_embedding_client.commands.table import format_table
from clip_embedding_client.errors import AuthFailed, ClipClientError, ConfigurationError, ConnectionFailed
from clip_embedding_client.settings import BackendName, ClientSettings, is_loopback
from clip_embedding_client.values import Embedding, ImageItem, Vector

_ENV_FILE = ".env"
_SECRET = "EMBEDDING_HMAC_SECRET"  # noqa: S105 - the variable's name
_NOBODYS_SECRET = "not the secret of anybody"  # noqa: S105 - it is none
_SECRET_FILE = "EMBEDDING_HMAC_SECRET_FILE"  # noqa: S105 - the variable's name
_INSECURE = "ALLOW_INSECURE_AUTH"
# As the settings read it; what they refuse they refuse later, by its name.
_ON = {"1", "true", "yes", "on"}
_BACKENDS = {"pod": BackendName.POD, "serverless": BackendName.SERVERLESS}

_NORM_TOLERANCE = 1e-4
# The length of the difference, of vectors of length 1. Twice the same image can land in batches of different size,
# which adds in another order: bfloat16 then differs by up to 1e-2, another image by far more.
_SAME_TOLERANCE = 2e-2

_DESCRIPTION = """Check a target that runs: health, an image, the same twice, a batch, a text, a wrong signature.

The target is what the settings name; without them it is what make run (or make run-serverless) has started on this
machine, whose secret is found if the current directory is the service's checkout. A target on another machine needs
SMOKE_IMAGE_URL, an image that it can download."""


class SmokeFailure(Exception):
    """A check found something wrong; the message is one line."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the checks are given."""

    client: ClipClient
    settings: ClientSettings
    image_url: str


Check = Callable[[Target], str]
"""Returns what was seen. Raises `SmokeFailure` or a `ClipClientError`."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser = commands.add_parser(
        "smoke",
        help="check that a running target does all that it should",
        description=_DESCRIPTION,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", choices=sorted(_BACKENDS), default="pod", help="which one (default pod)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Check the target with the defaults of the current directory. Returns the exit status."""
    return smoke(options.target, environ, env_file=Path(_ENV_FILE).absolute())


def smoke(name: str, environ: Mapping[str, str], *, env_file: Path) -> int:
    """Run the checks. Returns 0, or 1 if one failed. Raises `ConfigurationError`."""
    settings = ClientSettings.from_environ(with_local_defaults(environ, name, env_file))
    with ClipClient(settings) as client, _image_url(settings, environ) as image_url:
        return _report(name, Target(client, settings, image_url))


def with_local_defaults(environ: Mapping[str, str], target: str, env_file: Path) -> dict[str, str]:
    """Return `environ` with the target's backend chosen and, where nothing is set, the local target's address.

    Where nothing says how to sign, it is taken from what the run there has noted, else the secret from `env_file`.
    No fallback: the check is of this target.
    """
    given = {name.upper(): value for name, value in environ.items() if value != ""}
    chosen = given | {"CLIP_INFERENCE_BACKEND": _BACKENDS[target].value, "CLIP_FALLBACK_BACKEND": ""}
    if target == "pod":
        chosen.setdefault("CLIP_POD_BASE_URL", f"http://127.0.0.1:{given.get('PORT', '8000')}")
    elif given.get("RUNPOD_CLIP_ENDPOINT_ID", ".") == ".":
        chosen["RUNPOD_CLIP_ENDPOINT_ID"] = "."
        chosen.setdefault("RUNPOD_BASE_URL", f"http://127.0.0.1:{given.get('SERVERLESS_PORT', '8001')}")
    if not {_SECRET, _SECRET_FILE} & set(chosen) and chosen.get(_INSECURE, "").strip().lower() not in _ON:
        address = chosen.get("CLIP_POD_BASE_URL" if target == "pod" else "RUNPOD_BASE_URL", "")
        chosen |= _noted(address, env_file) or _shared(env_file)
    return chosen


def _noted(address: str, env_file: Path) -> dict[str, str]:
    """How the `make run` that is at `address` now is signed (`tools.run_local` writes it); empty if there is none."""
    port = urlsplit(address).netloc.rpartition(":")[2]
    note = env_file.parent / ".cache" / "run" / f"{port}.json"
    if not is_loopback(address) or not note.exists():
        return {}
    run = json.loads(note.read_text())
    try:
        os.kill(run["pid"], 0)  # only asks whether it lives
    except OSError:
        return {}
    signing: dict[str, str] = run["environ"]
    return signing


def _shared(env_file: Path) -> dict[str, str]:
    """The secret that all runs share that were given none."""
    if not env_file.exists():
        return {}
    assignments = (line.partition("=") for line in env_file.read_text().splitlines())
    secrets = [value.strip() for name, _, value in assignments if name.strip() == _SECRET and value.strip()]
    return {_SECRET: secrets[-1]} if secrets else {}


@contextmanager
def _image_url(settings: ClientSettings, environ: Mapping[str, str]) -> Iterator[str]:
    given = environ.get("SMOKE_IMAGE_URL")
    if given:
        yield given
        return
    if not is_loopback(_target_url(settings)):
        raise ConfigurationError("SMOKE_IMAGE_URL is not set: a target elsewhere cannot download from this machine")
    with serve_on_loopback(red_square_png()) as url:
        yield url


def _target_url(settings: ClientSettings) -> str:
    if settings.clip_inference_backend is BackendName.POD:
        return settings.clip_pod_base_url or ""
    return settings.runpod_base_url


def _report(name: str, target: Target) -> int:
    """Run the checks in order; the first one that fails ends it, because it is the cause of the rest."""
    rows = [("CHECK", "RESULT", "MS", "DETAIL")]
    cause = ""
    for label, check in CHECKS.items():
        started_s = time.monotonic()
        try:
            detail = check(target)
        except (SmokeFailure, ClipClientError) as error:
            cause = f"{label}: {error}{_hint(error)}"
            detail = str(error)
        rows.append((label, "FAILED" if cause else "ok", f"{(time.monotonic() - started_s) * 1000:.1f}", detail))
        if cause:
            break
    print(format_table(rows))
    if cause:
        print(f"smoke test of {name} at {_target_url(target.settings)} failed at {cause}", file=sys.stderr)
    return 1 if cause else 0


def _hint(error: Exception) -> str:
    if isinstance(error, AuthFailed):
        return f" - is {_SECRET} the same here and there?"
    if isinstance(error, ConnectionFailed):
        return " - is the target running?"
    return ""


def _health(target: Target) -> str:
    health = target.client.health()
    if not health.ready:
        raise SmokeFailure(f"the service is {health.status}")
    return f"{health.model_name} on {health.device}, fingerprint {health.fingerprint}"


def _image(target: Target) -> str:
    embedding = target.client.embed_image(target.image_url)
    return f"{_unit(embedding)} numbers of norm 1, fingerprint {embedding.fingerprint}"


def _same_twice(target: Target) -> str:
    distance = _distance(*(target.client.embed_image(target.image_url).vector for _ in range(2)))
    if distance > _SAME_TOLERANCE:
        raise SmokeFailure(f"two vectors of the same image are {distance:.1e} apart")
    return f"{distance:.1e} apart"


def _batch(target: Target) -> str:
    # A fragment is not sent to the image's server. Without it both had one signature, which a batch may hold once.
    items = [ImageItem(target.image_url), ImageItem(f"{target.image_url}#again", normalize=False)]
    results = target.client.embed_images(items)
    embeddings = [_embedding(result) for result in results]
    single = target.client.embed_image(target.image_url).vector
    distance = max(_distance(embedding.vector / np.linalg.norm(embedding.vector), single) for embedding in embeddings)
    if distance > _SAME_TOLERANCE:
        raise SmokeFailure(f"a row of a batch is {distance:.1e} from the single result")
    return f"{len(results)} rows, {distance:.1e} from the single result"


def _text(target: Target) -> str:
    return f"{_unit(target.client.embed_text('a red square'))} numbers of norm 1"


def _wrong_signature(target: Target) -> str:
    if target.client.health().insecure_auth:
        if _expects_open(target.settings):
            return f"not asked: {_INSECURE} is set here and there"
        raise SmokeFailure(f"the target takes requests without signatures ({_INSECURE})")
    forged = replace(target.settings, embedding_hmac_secret=_NOBODYS_SECRET)
    with ClipClient(forged) as client:
        try:
            client.embed_text("a red square")
        except AuthFailed as error:
            return f"refused with {error.code}"
    raise SmokeFailure("a request with a wrong signature was answered")


def _expects_open(settings: ClientSettings) -> bool:
    """On this machine only: elsewhere a target without signatures is a fault, whoever knows of it."""
    return (
        settings.embedding_hmac_secret is None and settings.allow_insecure_auth and is_loopback(_target_url(settings))
    )


CHECKS: Mapping[str, Check] = {
    "health": _health,
    "single image": _image,
    "same image twice": _same_twice,
    "batch": _batch,
    "text": _text,
    "wrong signature": _wrong_signature,
}


def _embedding(result: Embedding | ClipClientError) -> Embedding:
    if isinstance(result, ClipClientError):
        raise result
    return result


def _unit(embedding: Embedding) -> int:
    """Return the number of dimensions of a vector whose norm is 1."""
    norm = float(np.linalg.norm(embedding.vector))
    if abs(norm - 1) > _NORM_TOLERANCE:
        raise SmokeFailure(f"the norm is {norm:.5f}")
    return int(embedding.vector.shape[0])


def _distance(one: Vector, other: Vector) -> float:
    return float(np.linalg.norm(one - other))
