"""The pod: the contract over plain HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_embedding_client.backends.base import refusal, told_timeout_ms
from clip_embedding_client.effects import Exchange, Flow, HttpAnswer
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.signing.contract import HEALTH, TIMEOUT_HEADER

_SETTING = "CLIP_POD_BASE_URL"

# The pod answers health in milliseconds, also while batches run.
_HEALTH_TIMEOUT_S = 10.0


class PodBackend:
    """`base_url` may hold a path; operations are added to it. `api_key` is for a load balancer of RunPod in front, None
    where there is none.
    """

    name = "runpod_pod"

    def __init__(self, base_url: str, *, timeout_s: float, api_key: str | None = None) -> None:
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._is_load_balanced = api_key is not None
        self._timeout_s = timeout_s

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        limit_s = min(timeout_s, self._timeout_s)
        url = self._base_url + path
        headers = {**self._headers, TIMEOUT_HEADER: str(told_timeout_ms(limit_s))}
        answer = yield Exchange("POST", url, limit_s, body, headers, self.name)
        if answer.status != 200:
            raise self._refusal(answer)
        return answer.json()

    def health(self, *, timeout_s: float) -> Flow[object]:
        """A pod that loads or drains says 503 with the same body, which is an answer here."""
        limit_s = min(timeout_s, self._timeout_s, _HEALTH_TIMEOUT_S)
        url = self._base_url + HEALTH
        answer = yield Exchange("GET", url, limit_s, headers=self._headers, backend=self.name)
        parsed = answer.json_or_none()
        if answer.status in (200, 503) and isinstance(parsed, dict) and "status" in parsed:
            return parsed
        if answer.status != 200:
            raise self._refusal(answer)
        return answer.json()

    def _refusal(self, answer: HttpAnswer) -> ClipClientError:
        return refusal(answer, _SETTING, is_load_balanced=self._is_load_balanced)

    def close(self) -> None:
        """Nothing is held."""
