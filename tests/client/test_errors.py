"""The error tree against the service's own, and the two branches."""

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
from clip_embedding_client import errors
from clip_embedding_client.errors import ClipClientError, PermanentError, RetryableError, error_from_wire
from clip_embedding_client.signing import contract as ours

from core import errors as service_errors
from shared_auth import contract as theirs


def tree(base: type[Exception]) -> Iterator[type[Exception]]:
    for error in base.__subclasses__():
        yield error
        yield from tree(error)


def service_codes() -> list[tuple[str, bool]]:
    classes = [error for error in tree(service_errors.ServiceError) if issubclass(error, service_errors.ServiceError)]
    codes = {(error.code, error.retryable) for error in classes if "code" in vars(error)}
    return sorted(codes | {("DOWNLOAD_ERROR", True)})


@pytest.mark.parametrize(
    ("code", "retryable"), [pytest.param(*row, id="-".join(map(str, row))) for row in service_codes()]
)
def test_every_service_code_has_a_class(code: str, retryable: bool) -> None:
    """What the service can answer has a class of its own here, on the right branch."""
    error = error_from_wire({"code": code, "message": "m", "request_id": "r", "retryable": retryable})

    assert error is not None
    assert type(error) not in (RetryableError, PermanentError)
    assert (code, "m", "r", retryable) == (error.code, error.message, error.request_id, error.retryable)


@pytest.mark.parametrize(
    ("retryable", "expected"),
    [
        pytest.param(True, RetryableError, id="retryable"),
        pytest.param(False, PermanentError, id="permanent"),
    ],
)
def test_codes_of_the_future_go_by_their_flag(retryable: bool, expected: type[ClipClientError]) -> None:
    """A newer service may know errors that this client does not."""
    error = error_from_wire({"code": "QUOTA_SPENT", "message": "m", "retryable": retryable})

    assert expected is type(error)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(None, id="nothing"),
        pytest.param("OVERLOADED", id="text"),
        pytest.param({"code": "OVERLOADED", "retryable": True}, id="no message"),
        pytest.param({"code": 503, "message": "m", "retryable": True}, id="number as code"),
        pytest.param({"code": "OVERLOADED", "message": "m"}, id="no flag"),
        pytest.param({"code": "OVERLOADED", "message": "m", "retryable": "yes"}, id="text as flag"),
    ],
)
def test_strangers_errors_are_not_the_services(wire: object) -> None:
    """Another server's idea of an error is not read as one of ours."""
    assert None is error_from_wire(wire)


def test_every_error_is_on_exactly_one_branch() -> None:
    """A caller can decide by the branch alone, and codes tell classes apart."""
    leaves = [error for error in tree(ClipClientError) if error not in (RetryableError, PermanentError)]

    assert all(issubclass(error, RetryableError) != issubclass(error, PermanentError) for error in leaves)
    shared = {errors.DownloadFailed, errors.DownloadInterrupted}
    codes = [error.code for error in leaves if issubclass(error, ClipClientError) and error not in shared]
    assert len(set(codes)) == len(codes)


def _pickled(error: Exception) -> Exception:
    given: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    return given


@pytest.mark.parametrize("error_class", [ClipClientError, *tree(ClipClientError)])
@pytest.mark.parametrize("copied", [copy.copy, _pickled])
def test_errors_travel(error_class: type[Exception], copied: Callable[[Exception], Exception]) -> None:
    """From one process to another too: a pool that cannot read the error of its child waits for ever."""
    error = error_class() if error_class is errors.ClientClosed else error_class("m")
    # What `error_from_wire` gives, of whichever class.
    vars(error).update(code="QUOTA_SPENT", request_id="r", retry_after_s=2.0)

    assert (error_class, vars(error), str(error)) == (type(got := copied(error)), vars(got), str(got))


def test_contract_is_the_services() -> None:
    """Paths and limits of an installed client are a copy of the service's: this keeps them together."""
    of_service, of_client = (
        {name: value for name, value in vars(module).items() if name.isupper()} for module in (theirs, ours)
    )

    assert of_service == of_client
    assert {"EMBED_TEXT_BATCH", "MAX_URL_CHARACTERS"} < of_client.keys()
