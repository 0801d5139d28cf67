"""The signature rule of jobs: the common one, in a longer window, and on request the old clients' one."""

from serverless.settings import HandlerSettings
from shared_auth import Authenticator, BadSignature, Verified
from shared_auth.contract import EMBED_IMAGE


class LegacyAuthenticator(Authenticator):
    """Accepts for single images also what old clients sign: `image_url|ts`."""

    def verify(self, path: str, payload_id: str, auth: object) -> Verified:
        """See `Authenticator.verify`."""
        try:
            return super().verify(path, payload_id, auth)
        except BadSignature:
            if path != EMBED_IMAGE:
                raise
            return self.verify_legacy(payload_id, auth)


def build_authenticator(settings: HandlerSettings) -> Authenticator | None:
    """Return what verifies jobs; None only without a secret, which needs an explicit setting."""
    if not settings.verifies_signatures:
        return None
    kind = LegacyAuthenticator if settings.accept_legacy_signatures else Authenticator
    return kind(settings.hmac_secrets(), clients=settings.hmac_clients(), window_s=settings.job_window_s)
