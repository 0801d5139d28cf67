"""The error tree keeps the contract's promises."""

import pytest

from core import errors

# The contract's table: code -> retryable. DOWNLOAD_ERROR decides by cause.
CONTRACT = {
    "INVALID_JSON": False,
    "VALIDATION_ERROR": False,
    "BATCH_TOO_LARGE": False,
    "BODY_TOO_LARGE": False,
    "AUTH_FAILED": False,
    "AUTH_EXPIRED": False,
    "URL_NOT_ALLOWED": False,
    "DOWNLOAD_ERROR": False,
    "DOWNLOAD_TIMEOUT": True,
    "IMAGE_TOO_LARGE": False,
    "INVALID_IMAGE": False,
    "OVERLOADED": True,
    "RATE_LIMITED": True,
    "DEADLINE_EXCEEDED": True,
    "NOT_READY": True,
    "INFERENCE_ERROR": True,
    "NOT_FOUND": False,
    "METHOD_NOT_ALLOWED": False,
    "INTERNAL": True,
}


def leaves(root: type[errors.ServiceError] = errors.ServiceError) -> list[type[errors.ServiceError]]:
    """The classes of the tree that are raised: those without subclasses."""
    children = root.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [root]


def test_tree_has_every_code_of_the_contract_and_no_other() -> None:
    """One class per code, with the contract's retryable flag."""
    assert CONTRACT == {leaf.code: leaf().retryable for leaf in leaves()}
    assert len(CONTRACT) == len(leaves())


@pytest.mark.parametrize("retryable", [True, False], ids=["retryable", "final"])
def test_download_error_decides_by_cause(retryable: bool) -> None:
    """A reset can be tried again, a 404 cannot."""
    assert retryable == errors.DownloadError(retryable=retryable).retryable


def test_waiting_errors_say_how_long() -> None:
    """OVERLOADED and RATE_LIMITED come with a Retry-After."""
    assert None not in {errors.Overloaded().retry_after_s, errors.RateLimited().retry_after_s}
