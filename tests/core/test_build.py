"""What a start refuses beyond the settings' own types."""

import pytest

from core.build import build_service
from core.errors import StartError
from core.settings import load_settings


def test_hosts_that_cannot_be_read_are_refused() -> None:
    """Before anything is loaded, with the variable's name."""
    settings = load_settings({"EMBEDDING_HMAC_SECRET": "x", "DOWNLOAD_ALLOW_HOSTS": "10.0.0.0/99"})

    with pytest.raises(StartError, match=r"^DOWNLOAD_ALLOW_HOSTS: "):
        build_service(settings)
