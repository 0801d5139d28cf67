"""How many workers a pod has, and the share of one of them in what the settings allow to the pod."""

from collections.abc import Callable, Sequence

from core.errors import StartError
from core.settings import ServiceSettings
from core.wire.sizes import max_body_bytes

# Of a GPU, for a ViT-B/32 in float16 with its graphs and what CUDA keeps for a process (docs/deploy.md).
_GPU_BYTES_PER_WORKER = 1_500_000_000

# What a worker takes of the host: a core for its thread of connections, the rest for its image processes.
_CORES_PER_WORKER = 4

# Every worker has a model on every GPU; more of them have not been faster (docs/performance.md).
_MOST_PER_GPU = 4


def choose_workers(settings: ServiceSettings, cores: int, gpu_bytes: Callable[[str], Sequence[int]]) -> int:
    """Turn WORKERS into a number; `gpu_bytes` gives the memory of each GPU that a CLIP_DEVICE means, of none on a CPU.

    `auto` is 1 on a CPU: OpenVINO and torch use all cores for each pass, and a second model takes them from the first.
    Beside a GPU the thread of connections is what ends first, so each worker adds its own.
    Raises `StartError` for more workers than a GPU has memory for.
    """
    asked = settings.workers
    on_gpus = [] if asked == 1 or settings.clip_device == "cpu" else gpu_bytes(settings.clip_device)
    if not on_gpus:
        return 1 if asked == "auto" else asked
    fitting = min(on_gpus) // _GPU_BYTES_PER_WORKER
    if asked == "auto":
        return max(1, min(cores // _CORES_PER_WORKER, _MOST_PER_GPU, fitting))
    if asked > fitting:
        raise StartError(
            f"WORKERS: {asked} need {_GPU_BYTES_PER_WORKER / 1e9} GB of GPU memory each, and a GPU here has"
            f" {min(on_gpus) / 1e9:.1f} GB: set it to {max(1, fitting)} or to auto"
        )
    return asked


def share_of_one(settings: ServiceSettings, cores: int) -> ServiceSettings:
    """Return the settings of one of WORKERS workers, which must be a number by now."""
    if settings.workers == "auto":
        raise StartError("WORKERS: auto is for a pod that is started with pod/gunicorn_conf.py")
    processes = cores if settings.image_processes == "auto" else settings.image_processes
    # Not less than what one request may hold: a body as large as is allowed, and an image being read and decoded.
    least_bytes = max(max_body_bytes(settings), 2 * settings.max_image_size_bytes)
    return settings.model_copy(
        update={
            "image_processes": max(1, processes // settings.workers),
            "max_image_bytes_in_flight": max(least_bytes, settings.max_image_bytes_in_flight // settings.workers),
        }
    )
