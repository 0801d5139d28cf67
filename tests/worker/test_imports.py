"""What a worker does not have to install."""

import subprocess
import sys

FORBIDDEN = ["torch", "flask", "runpod", "transformers", "gevent", "core", "pod"]


def test_import_is_light() -> None:
    """Importing the library, its commands and the smoke test loads neither the service nor its frameworks."""
    program = (
        "import sys; import worker, worker.__main__, worker.smoke;"
        f" print(*[name for name in sys.modules if name.split('.')[0] in {FORBIDDEN!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert [] == done.stdout.split()
