"""Settings in, a service out. The one way to it for every entry point: pod, handler, local backend.

Importing this module is cheap and loads no torch: the thread counts must be set before torch is there.
"""

import logging

from core.errors import StartError
from core.images.fetch.allowlist import AllowList
from core.process import cpu
from core.service import Runtime, Service
from core.settings import ServiceSettings
from shared_auth import Authenticator

logger = logging.getLogger(__name__)


def require_usable(settings: ServiceSettings) -> None:
    """Check what only the parts that use a setting can. Raises `StartError` with one line that names the variable."""
    try:
        AllowList.parse(settings.download_allow_hosts)
    except ValueError as error:
        raise StartError(f"DOWNLOAD_ALLOW_HOSTS: {error}") from error
    if settings.has_rate_limits:
        from core.rate_limits import read_limits, require_store  # 80 ms, which a start without limits is spared

        read_limits(settings)
        require_store(settings.rate_limit_storage)
    if settings.cache_url:
        from core.cache_tier import require_address  # as long as the limits take, and spared likewise

        if settings.cache_bytes == 0:
            raise StartError("CACHE_URL: CACHE_BYTES is 0, which keeps no vectors: set one of them otherwise")
        require_address(settings.cache_url)


def build_service(settings: ServiceSettings, authenticator: Authenticator | None = None) -> Service:
    """Return a service that is still `loading`; its `load` reads and warms the model.

    Without an `authenticator` of the entry point's own, signatures are verified as the settings say.
    Raises `StartError`, see `require_usable`.
    """
    require_usable(settings)
    verifier = authenticator or _authenticator(settings)
    if verifier is None:
        logger.warning("signatures are not verified: ALLOW_INSECURE_AUTH is set and there is no secret")
    return Service(settings, lambda: _load(settings, verifier))


def _authenticator(settings: ServiceSettings) -> Authenticator | None:
    """None only without a secret, which `load_settings` allows with an explicit setting only."""
    if not settings.verifies_signatures:
        return None
    window_s = settings.auth_time_window_seconds
    return Authenticator(settings.hmac_secrets(), clients=settings.hmac_clients(), window_s=window_s)


def _load(settings: ServiceSettings, authenticator: Authenticator | None) -> Runtime:
    cpu.limit_library_threads(cpu.available_cores())
    from core.runtime import load_runtime  # imports torch: only now, with the thread count set

    return load_runtime(settings, authenticator)
