"""`clip-embed probe`: is every configured backend up, and do they give the same vectors? For a scheduler.

A serverless endpoint that nobody calls drops to no workers after a week; this also keeps a quiet fallback awake.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from clip_embedding_client.client import ClipClient
from clip_embedding_client.commands.table import format_table
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.fingerprints import EXPECTED_SETTING, why_they_differ
from clip_embedding_client.settings import BackendName, ClientSettings

_HEADING = ("BACKEND", "RESULT", "STATUS", "FINGERPRINT", "DIM", "DEVICE", "TEXT MS", "DETAIL")
_TEXT = "a red circle"
_DESCRIPTION = (
    "Ask the backend and the fallback, each by itself, for its health and for one vector. Exit status 1 if one is down"
    " or if their fingerprints differ from each other or from CLIP_EXPECTED_FINGERPRINT. For a scheduler: a serverless"
    " endpoint that nobody calls drops to no workers after a week."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at one backend. `detail` is empty when all is well."""

    backend: str
    status: str = "-"
    fingerprint: str = "-"
    dim: str = "-"
    device: str = "-"
    text_ms: str = "-"
    detail: str = ""

    def row(self) -> tuple[str, ...]:
        result = "FAILED" if self.detail else "ok"
        return (self.backend, result, self.status, self.fingerprint, self.dim, self.device, self.text_ms, self.detail)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    words = "check every configured backend; exit status 1 if one is down or they differ"
    commands.add_parser("probe", help=words, description=_DESCRIPTION, parents=[common]).set_defaults(run=run)


def run(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Probe what the settings name. Returns the exit status. Raises `ConfigurationError`."""
    return probe(ClientSettings.from_environ(environ))


def probe(settings: ClientSettings) -> int:
    """Print a table of the backends. Returns 1 if one is down or their fingerprints differ, else 0."""
    findings = [_find(name, settings) for name in settings.backends()]
    print(format_table([_HEADING, *(finding.row() for finding in findings)]))
    complaints = _complaints(findings, settings)
    for complaint in complaints:
        print(complaint)
    return 1 if complaints or any(finding.detail for finding in findings) else 0


def _find(name: BackendName, settings: ClientSettings) -> Finding:
    """Ask one backend by itself: with the other one behind it, nothing would ever look down."""
    alone = replace(settings, clip_inference_backend=name, clip_fallback_backend=None, clip_expected_fingerprint=None)
    with ClipClient(alone) as client:
        try:
            health = client.health()
        except ClipClientError as error:
            return Finding(name.value, detail=str(error))
        known = {
            "backend": name.value,
            "status": health.status,
            "fingerprint": health.fingerprint or "-",
            "dim": str(health.dim or "-"),
            "device": health.device or "-",
        }
        if not health.ready:
            return Finding(**known, detail=f"the service is {health.status}")
        started_s = time.monotonic()
        try:
            client.embed_text(_TEXT)
        except ClipClientError as error:
            return Finding(**known, detail=str(error))
        return Finding(**known, text_ms=f"{(time.monotonic() - started_s) * 1000:.1f}")


def _complaints(findings: list[Finding], settings: ClientSettings) -> list[str]:
    seen = {finding.fingerprint for finding in findings} - {"-"}
    expected = settings.clip_expected_fingerprint
    complaints = []
    if len(seen) > 1:
        complaints.append("the fingerprints differ: vectors of these backends must not be mixed")
    complaints += [
        f"{fingerprint} is not the fingerprint in {EXPECTED_SETTING}: {expected}"
        f"{why_they_differ(expected, fingerprint, EXPECTED_SETTING)}"
        for fingerprint in sorted(seen - {expected})
        if expected is not None
    ]
    return complaints
