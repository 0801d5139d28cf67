"""Variables of the system before this one that nobody reads here, each with what is to be set instead."""

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)

# None: there is nothing to set. A hub id names architecture and weights at once.
OLD_NAMES: Mapping[str, str | None] = {
    "CLIP_MODEL_NAME": "CLIP_MODEL",
    "CLIP_PRETRAINED": "CLIP_MODEL",
    "TOTAL_REQUEST_TIMEOUT_S": "REQUEST_TIMEOUT_S",
    "IMAGE_DOWNLOAD_TIMEOUT": "IMAGE_DOWNLOAD_TIMEOUT_S",
    "SERVICE_NAME": None,
}


def warn_of_old_names(environ: Mapping[str, str]) -> None:
    """Log one line that names the old variables in `environ` and their new names; called once by each start.

    A warning and no error: the environment of an old deployment may still be needed to go back to it.
    """
    given = {name.upper() for name, value in environ.items() if value != ""}
    found = {old: new for old, new in OLD_NAMES.items() if old in given}
    if found:
        logger.warning("variables of the system before are set, and nobody reads them", extra={"variables": found})
