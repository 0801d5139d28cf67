"""docs/errors.md has every code that a caller can see, with its status and whether to send it again."""

import re

from clip_embedding_client import errors as client_errors

from core import errors
from pod.errors import STATUS
from tests.core.test_errors import leaves
from tools.testbed.process import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
_ROW = re.compile(r"^\| `([A-Z_]+)` \| (\d+) \| (yes|no|by cause) \|", re.MULTILINE)


def test_page_lists_each_code_of_the_service() -> None:
    """The statuses are the pod's table, the retryable flags those of the classes."""
    expected = {leaf.code: (STATUS[leaf], "yes" if leaf().retryable else "no") for leaf in leaves()}
    expected[errors.DownloadError.code] = (STATUS[errors.DownloadError], "by cause")

    assert expected == {code: (int(status), retryable) for code, status, retryable in _ROW.findall(PAGE)}


def test_page_names_each_code_of_the_client() -> None:
    """Also those that come from no service."""
    kinds = [client_errors.ClipClientError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    leaf_codes = {kind.code for kind in kinds if not kind.__subclasses__()}

    assert set() == {code for code in leaf_codes if f"`{code}`" not in PAGE}
