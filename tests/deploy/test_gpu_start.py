"""What an image for GPUs does where there is none: real processes with its CLIP_DEVICE=cuda, and no device to see."""

import os
import shutil
import signal
from importlib.metadata import version
from pathlib import Path

from gunicorn.arbiter import Arbiter

from tools.testbed.control_plane import control_plane
from tools.testbed.process import TINY_MODEL, ServiceProcess, handler_process, pod_process

NO_GPU = {"CLIP_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": "-1"}


def assert_refused(service: ServiceProcess) -> None:
    """It ends by itself, with a failure and one line that says why there is no device."""
    status = service.wait_for_exit()
    log = service.log()

    assert 0 != status
    assert "Traceback" not in log
    [line] = [line for line in log.splitlines() if "cannot start" in line]
    assert "cannot start: CLIP_DEVICE: cuda is not here: " in line
    # Its version may go on with that of CUDA: 2.13.0+cu130.
    assert f"torch {version('torch')}" in line
    assert " is built " in line


def test_pod_without_its_gpu_does_not_start() -> None:
    """Served from its CPU it would be well, and a fraction of what it is paid for."""
    with pod_process(NO_GPU, ready=False) as pod:
        assert_refused(pod)


def test_handler_without_its_gpu_does_not_start() -> None:
    """It ends before it asks for a job: the platform gives the job to another worker."""
    with control_plane() as plane, handler_process(plane.worker_environment() | NO_GPU) as handler:
        assert_refused(handler)


def test_worker_that_cannot_take_over_ends_the_pod(tmp_path: Path) -> None:
    """As when a device is lost at work and not there for the next worker: the platform has to see it, at once.

    Here the model is lost, which a machine without a GPU can lose; it ends the start in the same way.
    """
    model = tmp_path / "model"
    shutil.copytree(TINY_MODEL, model)
    with pod_process({"CLIP_MODEL": str(model)}) as pod:
        worker = str(pod.wait_for_log("Booting worker")["message"]).split()[-1]
        shutil.rmtree(model)
        os.kill(int(worker), signal.SIGKILL)
        status = pod.wait_for_exit()
        log = pod.log()

    assert Arbiter.APP_LOAD_ERROR == status
    assert 1 == log.count("cannot start: CLIP_MODEL: ")
