"""The ways to the service, all behind one protocol; `create_backend` checks what the chosen one needs."""

from __future__ import annotations

from urllib.parse import urlsplit

from clip_embedding_client.backends.base import Backend
from clip_embedding_client.backends.local import LocalBackend
from clip_embedding_client.backends.off import OffBackend
from clip_embedding_client.backends.pod import PodBackend
from clip_embedding_client.backends.serverless import ServerlessBackend, endpoint_url
from clip_embedding_client.clock import Clock
from clip_embedding_client.errors import ConfigurationError
from clip_embedding_client.settings import BackendName, ClientSettings, is_loopback

__all__ = ["Backend", "create_backend"]

# A load-balancing endpoint is a pod behind RunPod's own authorization. The key goes to no other host.
_LOAD_BALANCERS = ".api.runpod.ai"


def create_backend(name: BackendName, settings: ClientSettings, clock: Clock) -> Backend:
    """Return a backend that has not connected yet. Raises `ConfigurationError` naming the variable it lacks."""
    match name:
        case BackendName.POD:
            return _pod(settings)
        case BackendName.SERVERLESS:
            return _serverless(settings, clock)
        case BackendName.LOCAL:
            return LocalBackend(_service_environ(settings))
        case BackendName.OFF:
            return OffBackend()


def _pod(settings: ClientSettings) -> Backend:
    base_url = _needed(settings.clip_pod_base_url, "CLIP_POD_BASE_URL", BackendName.POD)
    _require_secret(settings)
    api_key = None
    if is_load_balancer(base_url):
        _require_private(base_url, "CLIP_POD_BASE_URL")
        api_key = _needed(settings.runpod_api_key, "RUNPOD_API_KEY", BackendName.POD)
    return PodBackend(base_url, timeout_s=settings.clip_pod_timeout_s, api_key=api_key)


def is_load_balancer(url: str) -> bool:
    """Whether `url` is a load-balancing endpoint of RunPod, the only kind of pod that its key is sent to."""
    return (urlsplit(url).hostname or "").endswith(_LOAD_BALANCERS)


def _serverless(settings: ClientSettings, clock: Clock) -> Backend:
    endpoint_id = _needed(settings.runpod_clip_endpoint_id, "RUNPOD_CLIP_ENDPOINT_ID", BackendName.SERVERLESS)
    api_key = settings.runpod_api_key
    if not is_loopback(settings.runpod_base_url):
        _needed(api_key, "RUNPOD_API_KEY", BackendName.SERVERLESS)
    if api_key is not None:
        _require_private(settings.runpod_base_url, "RUNPOD_BASE_URL")
    _require_secret(settings)
    return ServerlessBackend(
        endpoint_url(settings.runpod_base_url, endpoint_id),
        api_key,
        timeout_s=settings.runpod_timeout_s,
        clock=clock,
    )


def _service_environ(settings: ClientSettings) -> dict[str, str]:
    """The service's settings for this process. In process nobody needs to prove anything: no secret, no signatures."""
    environ = dict(settings.local_environ)
    secret = settings.embedding_hmac_secret
    return environ | ({"EMBEDDING_HMAC_SECRET": secret} if secret else {"ALLOW_INSECURE_AUTH": "1"})


def _needed(value: str | None, variable: str, backend: BackendName) -> str:
    if not value:
        raise ConfigurationError(f"{variable} is not set: the backend {backend.value} needs it")
    return value


def _require_private(url: str, variable: str) -> None:
    """RUNPOD_API_KEY can create and delete everything: nobody on the way may read it. Since no redirect is followed
    (neither driver does), it goes to this address or nowhere."""
    if urlsplit(url).scheme != "https" and not is_loopback(url):
        raise ConfigurationError(f"{variable} must begin with https: RUNPOD_API_KEY is not sent unencrypted")


def _require_secret(settings: ClientSettings) -> None:
    if settings.embedding_hmac_secret is None and not settings.allow_insecure_auth:
        raise ConfigurationError(
            "EMBEDDING_HMAC_SECRET is not set: set it to the service's secret"
            " (or ALLOW_INSECURE_AUTH=1 to send requests without signatures, never in production)"
        )
