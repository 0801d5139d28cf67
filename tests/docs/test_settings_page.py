"""docs/settings.md is what the models say."""

import pytest
from pydantic import BaseModel
from worker.settings import WorkerSettings

from serverless.settings import HandlerSettings
from tools.settings_page import PAGE, page

# Not read from the environment by its own name.
INNER = {"local_environ"}


def test_page_is_what_the_models_say() -> None:
    """`make settings-page` writes it anew."""
    assert page() == PAGE.read_text("utf-8")


@pytest.mark.parametrize("model", [HandlerSettings, WorkerSettings])
def test_every_setting_has_words(model: type[BaseModel]) -> None:
    """A setting without any would be missing from the page."""
    assert INNER >= {name for name, field in model.model_fields.items() if not field.description}
