"""The handler's settings: which window a job's signature has."""

import pytest

from serverless.settings import load_handler_settings

SECRET = {"EMBEDDING_HMAC_SECRET": "s3cret"}


@pytest.mark.parametrize(
    ("environ", "window_s"),
    [
        pytest.param({}, 900, id="none set"),
        pytest.param({"AUTH_TIME_WINDOW_SECONDS": "60"}, 60, id="the common one"),
        pytest.param({"AUTH_TIME_WINDOW_SECONDS": "120"}, 120, id="the common one, set to its default"),
        pytest.param({"AUTH_TIME_WINDOW_SECONDS": "3600"}, 3600, id="the common one, longer"),
        pytest.param({"AUTH_TIME_WINDOW_SECONDS": ""}, 900, id="the common one, set to nothing"),
        pytest.param({"SERVERLESS_AUTH_TIME_WINDOW_SECONDS": "300"}, 300, id="the handler's own"),
        pytest.param({"AUTH_TIME_WINDOW_SECONDS": "60", "SERVERLESS_AUTH_TIME_WINDOW_SECONDS": "900"}, 900, id="both"),
    ],
)
def test_window_of_jobs(environ: dict[str, str], window_s: int) -> None:
    """The handler's own setting, else the common one if somebody has set it, else long enough for a cold start."""
    assert window_s == load_handler_settings({**SECRET, **environ}).job_window_s
