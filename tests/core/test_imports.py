"""The directions of the arrows: who may know whom, seen in a fresh interpreter."""

import re
import subprocess
import sys

import pytest

from tools.testbed.process import ROOT

TRANSPORTS = ["flask", "gevent", "gunicorn", "runpod", "requests"]


def loaded_after(statement: str, names: list[str]) -> list[str]:
    program = f"import sys; {statement}; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("module", ["core.build", "core.runtime"])
def test_core_knows_no_transport(module: str) -> None:
    """The core imports without any web framework or SDK, with its engines too."""
    assert [] == loaded_after(f"import {module}", TRANSPORTS)


def test_sdk_is_imported_by_the_entry_point_alone() -> None:
    """The handler's adapter can be tested, and its model loaded, without the SDK's imports."""
    assert [] == loaded_after("import serverless.adapter, serverless.auth, serverless.handler", TRANSPORTS)


def test_serving_does_without_transformers() -> None:
    """Two seconds of every start: only baking and tests compare with it."""
    engines = "core.clip.torch_engine, core.clip.openvino_engine"

    assert [] == loaded_after(f"import core.runtime, {engines}", ["transformers"])


def test_no_torch_for_openvino() -> None:
    """It takes as long to import as all the rest of such a start."""
    modules = "core.clip.loading, core.clip.openvino_engine, core.clip.cuda"

    assert [] == loaded_after(f"import {modules}", ["torch", "transformers", "huggingface_hub", "idna"])


@pytest.mark.parametrize(
    "module", ["core.build", "core.settings", "pod.gunicorn_conf", "pod.wsgi", "serverless.handler"]
)
def test_no_torch_before_the_thread_count_is_set(module: str) -> None:
    """Entry points import without torch: it is loaded by `load`, after OMP_NUM_THREADS."""
    prepare = "import os; os.environ.update(EMBEDDING_HMAC_SECRET='x', CLIP_MODEL='.')"
    stop_loading = "import core.service; core.service.Service.load = lambda self: None"

    assert [] == loaded_after(f"{prepare}; {stop_loading}; import {module}", ["torch", "transformers"])


def test_decoding_needs_no_torch() -> None:
    """A process that decodes strangers' pictures holds no model and starts without torch's second and 200 MB."""
    decoding = "core.images.decoding.pixels, core.images.decoding.strict_decoding"

    assert [] == loaded_after(f"import {decoding}", ["torch", "transformers", "pydantic", *TRANSPORTS])


def test_openvino_tells_nobody() -> None:
    """Its own telemetry neither runs nor forks a process to send what it knows; whoever needs OpenVINO gets it so."""
    program = (
        "import os, sys; os.register_at_fork(before=lambda: print('forked'));"
        " import core.clip.openvino_engine, core.clip.openvino_export, core.clip.int8.graphs;"
        " import openvino.tools.ovc as ovc;"
        " print(type(ovc.telemetry).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    direct = [
        str(path.relative_to(ROOT))
        for folder in ("core", "bulk", "bench", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) openvino\b", path.read_text("utf-8"), re.MULTILINE)
    ]

    assert ["openvino.tools.ovc.telemetry_stub"] == done.stdout.split()
    assert ["core/clip/silent_openvino.py"] == direct
