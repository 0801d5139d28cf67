"""docs/settings.md is what the models say."""

from dataclasses import fields
from pathlib import Path

import pytest
from clip_embedding_client.settings import ClientSettings

from serverless.settings import HandlerSettings
from tools.settings_page import PAGE, client_secrets, page

# Not read from the environment by its own name.
INNER = {"local_environ"}


def test_page_is_what_the_models_say() -> None:
    """`make settings-page` writes it anew."""
    assert page() == PAGE.read_text("utf-8")


def test_every_setting_of_the_service_has_words() -> None:
    """A setting without any would be missing from the page."""
    assert [] == [name for name, field in HandlerSettings.model_fields.items() if not field.description]


def test_every_setting_of_the_client_has_words() -> None:
    """A setting without any would be missing from the page."""
    assert INNER == {each.name for each in fields(ClientSettings) if not each.metadata.get("words")}


@pytest.mark.parametrize("name", client_secrets())
def test_secret_of_the_client_may_lie_in_a_file(tmp_path: Path, name: str) -> None:
    """What the page says of it: the variable with `_FILE` names a file, and the secret is what is in it."""
    (tmp_path / "secret").write_text("s3cret\n")
    environ = {"CLIP_INFERENCE_BACKEND": "off", f"{name}_FILE": str(tmp_path / "secret")}

    assert "s3cret" == getattr(ClientSettings.from_environ(environ), name.lower())
    assert f"`{name}_FILE`" in page()
