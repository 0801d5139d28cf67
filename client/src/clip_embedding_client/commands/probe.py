"""`python -m worker probe`: is every configured backend up, and do they give the same vectors? For a scheduler.

A serverless endpoint that nobody calls drops to no workers after a week; this also keeps a quiet fallback awake.
"""

import time
from dataclasses import dataclass

from clip_embedding_client.client import create_clip_client
from clip_embedding_client.commands.table import format_table
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.fingerprints import EXPECTED_SETTING, why_they_differ
from clip_embedding_client.settings import BackendName, WorkerSettings

_HEADING = ("BACKEND", "RESULT", "STATUS", "FINGERPRINT", "DIM", "DEVICE", "TEXT MS", "DETAIL")
_TEXT = "a red circle"


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


def probe(settings: WorkerSettings) -> int:
    """Print a table of the backends. Returns 1 if one is down or their fingerprints differ, else 0."""
    findings = [_find(name, settings) for name in settings.backends()]
    print(format_table([_HEADING, *(finding.row() for finding in findings)]))
    complaints = _complaints(findings, settings)
    for complaint in complaints:
        print(complaint)
    return 1 if complaints or any(finding.detail for finding in findings) else 0


def _find(name: BackendName, settings: WorkerSettings) -> Finding:
    """Ask one backend by itself: with the other one behind it, nothing would ever look down."""
    alone = settings.model_copy(
        update={"clip_inference_backend": name, "clip_fallback_backend": None, "clip_expected_fingerprint": None}
    )
    with create_clip_client(alone) as client:
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


def _complaints(findings: list[Finding], settings: WorkerSettings) -> list[str]:
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
