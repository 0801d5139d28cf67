"""What the example is: small, and code that a user can copy."""

import re
import subprocess
import sys

from tools.testbed.process import ROOT

FOLDER = ROOT / "examples" / "video_search"
FORBIDDEN = ["core", "pod", "serverless", "shared_auth", "shared_tracing", "models", "tools", "tests", "torch"]

PROGRAM = f"""
import importlib, pkgutil, sys
import examples.video_search as example
for module in pkgutil.walk_packages(example.__path__, "examples.video_search."):
    importlib.import_module(module.name)
print(*[name for name in sys.modules if name.split(".")[0] in {FORBIDDEN!r}])
"""


def test_example_stands_on_the_client_alone() -> None:
    """No module of it loads the service, or anything of this checkout but the client's package."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)

    assert ("", []) == (done.stderr, done.stdout.split())


def test_example_counts_its_lines() -> None:
    """What its README says: the lines of Python, HTML, CSS and JavaScript that are not blank."""
    said = re.search(r"(\d+) lines", (FOLDER / "README.md").read_text("utf-8"))
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".py", ".html", ".css", ".js")]
    lines = [line for path in files for line in path.read_text("utf-8").splitlines() if line.strip()]

    assert said is not None
    assert len(lines) == int(said[1])
