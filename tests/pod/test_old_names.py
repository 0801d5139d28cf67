"""Variables of the system before: a start says, once, that nobody reads them any more."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.old_names import OLD_NAMES
from core.settings import ServiceSettings
from serverless.settings import HandlerSettings
from tools.testbed.control_plane import control_plane
from tools.testbed.process import ServiceProcess, handler_process, pod_process

POD_NAMES = {
    "CLIP_MODEL_NAME": "ViT-B-32",
    "CLIP_PRETRAINED": "openai",
    "TOTAL_REQUEST_TIMEOUT_S": "60",
    "SERVICE_NAME": "clip",
}
HANDLER_NAMES = POD_NAMES | {"IMAGE_DOWNLOAD_TIMEOUT": "30"}


@contextmanager
def ready_handler(settings: dict[str, str]) -> Iterator[ServiceProcess]:
    with control_plane() as plane, handler_process(plane.worker_environment() | settings) as process:
        assert "COMPLETED" == plane.run({"path": "/health"})["status"]
        yield process


def warnings_of(process: ServiceProcess) -> list[dict[str, object]]:
    return [line["variables"] for line in process.log_lines() if line["message"].startswith("variables of the system")]


def test_pod_warns_once_of_old_names() -> None:
    """One line for the whole pod, however many processes it has, with the new name of each."""
    with pod_process({**POD_NAMES, "WORKERS": "2"}) as pod:
        warnings = warnings_of(pod)

    assert [{name: OLD_NAMES[name] for name in POD_NAMES}] == warnings


def test_handler_warns_once_of_old_names() -> None:
    """The same on serverless, with the name that the timeout of downloads had there, in any case of letters."""
    with ready_handler({name.lower(): value for name, value in HANDLER_NAMES.items()}) as handler:
        warnings = warnings_of(handler)

    assert [{name: OLD_NAMES[name] for name in HANDLER_NAMES}] == warnings


def test_no_old_name_no_warning() -> None:
    """New names, and old ones that are set to nothing, warn of nothing."""
    with pod_process({"REQUEST_TIMEOUT_S": "60"}) as pod, ready_handler({"IMAGE_DOWNLOAD_TIMEOUT_S": "30"}) as handler:
        assert ([], []) == (warnings_of(pod), warnings_of(handler))


@pytest.mark.parametrize("old", OLD_NAMES)
def test_old_name_is_read_by_nobody_and_its_new_name_is(old: str) -> None:
    """The table says what is true: a row goes when a setting of that name comes."""
    fields = ServiceSettings.model_fields | HandlerSettings.model_fields
    new = OLD_NAMES[old]

    assert old.lower() not in fields
    assert new is None or new.lower() in fields
