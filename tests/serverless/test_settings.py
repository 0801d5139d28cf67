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


@pytest.mark.parametrize(
    ("environ", "requests"),
    [
        pytest.param({}, 64, id="none set"),
        pytest.param({"SERVERLESS_CONCURRENCY": "100"}, 100, id="more jobs"),
        pytest.param({"SERVERLESS_CONCURRENCY": "100", "MAX_CONCURRENT_REQUESTS": "80"}, 80, id="both"),
        pytest.param({"MAX_CONCURRENT_REQUESTS": "8"}, 8, id="fewer requests"),
    ],
)
def test_job_that_is_taken_has_a_place(environ: dict[str, str], requests: int) -> None:
    """A worker that takes more jobs than it has places fails those that could have waited in the platform's queue."""
    assert requests == load_handler_settings({**SECRET, **environ}).requests_limit
