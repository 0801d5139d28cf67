"""What only the handler needs to know, beside the service's own settings."""

from collections.abc import Mapping

from core.settings import Positive, ServiceSettings, read_settings


class HandlerSettings(ServiceSettings):
    """A job may wait in a queue during a cold start, so its signature may be older than a pod's request."""

    serverless_auth_time_window_seconds: Positive = 900
    """How old a job's signature may be: it may have waited for a cold start. `AUTH_TIME_WINDOW_SECONDS` counts where
    that alone is set.
    """
    serverless_concurrency: Positive = 16
    """Jobs at once; they share batches."""
    max_queued_items: Positive = 16_384
    """Of 64 jobs with 256 texts each: who refuses a job that it has taken fails it, though it could have waited."""
    accept_legacy_signatures: bool = False
    """1 accepts what old clients sign (`image_url|ts`), for single images."""

    @property
    def requests_limit(self) -> int:
        """A job that has been taken has its place, unless somebody has said otherwise."""
        if "max_concurrent_requests" in self.model_fields_set:
            return self.max_concurrent_requests
        return max(self.max_concurrent_requests, self.serverless_concurrency)

    @property
    def job_window_s(self) -> int:
        """How old, or how far in the future, a job's signature may be: who has set the common window alone means it."""
        own, common = "serverless_auth_time_window_seconds", "auth_time_window_seconds"
        if own not in self.model_fields_set and common in self.model_fields_set:
            return self.auth_time_window_seconds
        return self.serverless_auth_time_window_seconds


def load_handler_settings(environ: Mapping[str, str]) -> HandlerSettings:
    """Read the handler's settings from `environ`. Raises `StartError`, see `read_settings`."""
    return read_settings(HandlerSettings, environ)
