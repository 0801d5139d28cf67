"""What a client does not have to install, or load."""

import subprocess
import sys

FORBIDDEN = ["torch", "flask", "runpod", "transformers", "gevent", "pydantic", "PIL", "pyarrow", "core", "pod"]

PROGRAM = f"""
import importlib, pkgutil, sys
import clip_embedding_client as client
for module in pkgutil.walk_packages(client.__path__, "clip_embedding_client."):
    importlib.import_module(module.name)
print(*[name for name in sys.modules if name.split(".")[0] in {FORBIDDEN!r}])
"""


def test_import_is_light() -> None:
    """No module of the client, its commands among them, loads the service, its frameworks or what is an extra here."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)

    assert ("", []) == (done.stderr, done.stdout.split())
