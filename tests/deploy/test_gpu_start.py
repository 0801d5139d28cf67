"""What an image for GPUs does where there is none: real processes with its CLIP_DEVICE=cuda, and no device to see."""

from importlib.metadata import version

from tools.testbed.control_plane import control_plane
from tools.testbed.process import ServiceProcess, handler_process, pod_process

NO_GPU = {"CLIP_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": "-1"}


def assert_refused(service: ServiceProcess) -> None:
    """It ends by itself, with a failure and one line that says why there is no device."""
    status = service.wait_for_exit()
    log = service.log()

    assert 0 != status
    assert "Traceback" not in log
    [line] = [line for line in log.splitlines() if "cannot start" in line]
    assert "cannot start: CLIP_DEVICE: cuda is not here: " in line
    assert f"torch {version('torch')} is built " in line


def test_pod_without_its_gpu_does_not_start() -> None:
    """Served from its CPU it would be well, and a fraction of what it is paid for."""
    with pod_process(NO_GPU, ready=False) as pod:
        assert_refused(pod)


def test_handler_without_its_gpu_does_not_start() -> None:
    """It ends before it asks for a job: the platform gives the job to another worker."""
    with control_plane() as plane, handler_process(plane.worker_environment() | NO_GPU) as handler:
        assert_refused(handler)
