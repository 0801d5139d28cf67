"""What the modules load, in a fresh interpreter each."""

import subprocess
import sys

import pytest

LIST_MODULES = "import importlib, sys; importlib.import_module(sys.argv[1]); print('\\n'.join(sys.modules))"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        pytest.param("core.images.fetch.fetcher", {"http.client", "urllib3", "requests"}, id="fetcher"),
        pytest.param("core.images.fetch.allowlist", {"ssl", "httptools", "socket", "http.client"}, id="allowlist"),
    ],
)
def test_modules_that_are_not_loaded(module: str, absent: set[str]) -> None:
    """Downloads use no library that logs URLs; reading the allow-list loads neither sockets, TLS nor a parser."""
    listed = subprocess.run([sys.executable, "-c", LIST_MODULES, module], capture_output=True, text=True, check=True)

    assert absent & set(listed.stdout.split()) == set()
