"""Who may know whom, seen in a fresh interpreter."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        pytest.param("bulk.__main__", ["pod", "serverless", "flask", "gevent", "runpod", "torch"], id="command"),
        pytest.param("bulk.stages", ["pod", "serverless", "flask", "gevent", "runpod"], id="stages"),
        pytest.param("bulk.decoding", ["ray", "pod", "serverless"], id="decoding"),
        pytest.param("bulk.encoding", ["ray", "pod", "serverless"], id="encoding"),
        pytest.param("bulk.asking", ["ray", "pod", "serverless", "clip_embedding_client"], id="asking"),
        pytest.param("bulk.store", ["ray", "torch", "core.clip"], id="store"),
        pytest.param("core.runtime", ["bulk", "ray", "pyarrow"], id="core"),
    ],
)
def test_arrows_point_down(module: str, not_loaded: list[str]) -> None:
    """A run needs neither adapter; what decodes and encodes knows nothing of Ray; nothing below knows of runs."""
    program = f"import sys, {module}; print(*[name for name in {not_loaded!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert [] == done.stdout.split()
