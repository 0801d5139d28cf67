"""What the client tells of its retries, for `--verbose`."""

from __future__ import annotations

import logging

from clip_embedding_client.events import Event, Retried

logger = logging.getLogger(__name__)


def log_event(event: Event) -> None:
    """The others are logged by the client itself."""
    if isinstance(event, Retried):
        # Arguments, not only fields: this format shows no fields.
        logger.info("%s: %s, %d again in %.1f s", event.backend, event.code, event.items, event.pause_s)
