"""The settings of the system that this one replaces: nobody reads them any more, and a deployment should know."""

import logging
from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)

_NOTHING = "nothing"
# What has taken a name's place. A name that ends in an underscore stands for all that begin with it.
OLD_NAMES: Mapping[str, str] = {
    "CLIP_ENABLED": "CLIP_INFERENCE_BACKEND",
    "CLIP_NORMALIZE": "the argument normalize",
    "CLIP_TIMEOUT_S": "CLIP_POD_TIMEOUT_S, RUNPOD_TIMEOUT_S and CLIP_TOTAL_TIMEOUT_S",
    "CLIP_MODEL_NAME": "the service's CLIP_MODEL",
    "CLIP_PRETRAINED": "the service's CLIP_MODEL",
    "CLIP_MODEL_VERSION": "CLIP_EXPECTED_FINGERPRINT",
    "CLIP_MAX_IMAGE_SIZE": "the service's MAX_IMAGE_SIZE_BYTES",
    "CLIP_FRAME_STRATEGY": _NOTHING,
    "CLIP_RUNPOD_": "RUNPOD_API_KEY, RUNPOD_CLIP_ENDPOINT_ID and RUNPOD_BASE_URL",
    "CLIP_TEXT_EMBEDDING_": "the settings for images, which are for texts too",
}


def warn_of_old_names(names: Iterable[str]) -> None:
    """Log one line that names what is set in vain, if anything is; in any case of letters, as settings are read."""
    found = {name: place for name in sorted(map(str.upper, names)) if (place := _place_of(name)) is not None}
    if found:
        listed = "; ".join(f"{name} (now {place})" for name, place in found.items())
        # An argument, not only a field: the plain format of most programs shows no fields.
        logger.warning("settings that are not read any more: %s", listed, extra={"names": list(found)})


def _place_of(name: str) -> str | None:
    exact = OLD_NAMES.get(name)
    if exact is not None:
        return exact
    return next((place for old, place in OLD_NAMES.items() if old.endswith("_") and name.startswith(old)), None)
