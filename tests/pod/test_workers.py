"""How many workers, and what each of them may have."""

from collections.abc import Sequence

import pytest

from core.errors import StartError
from core.settings import ServiceSettings, load_settings
from core.wire.sizes import max_body_bytes
from pod.workers import choose_workers, share_of_one

GB = 1_000_000_000
MIB = 1_048_576


def settings_of(**environ: str) -> ServiceSettings:
    return load_settings({"ALLOW_INSECURE_AUTH": "1", **environ})


@pytest.mark.parametrize(
    ("workers", "cores", "gpus", "expected"),
    [
        pytest.param("auto", 64, [], 1, id="no GPU"),
        pytest.param("auto", 16, [80 * GB], 4, id="sixteen cores"),
        pytest.param("auto", 8, [80 * GB], 2, id="eight cores"),
        pytest.param("auto", 2, [80 * GB], 1, id="two cores"),
        pytest.param("auto", 64, [80 * GB], 4, id="more cores than help"),
        pytest.param("auto", 64, [80 * GB, 80 * GB], 4, id="two GPUs, and every worker on both"),
        pytest.param("auto", 64, [80 * GB, 4 * GB], 2, id="as many as the smaller GPU holds"),
        pytest.param("auto", 64, [1 * GB], 1, id="a GPU that hardly holds one"),
        pytest.param("3", 2, [80 * GB], 3, id="what was asked for"),
        pytest.param("3", 2, [], 3, id="what was asked for, on a CPU"),
    ],
)
def test_workers_are_chosen(workers: str, cores: int, gpus: Sequence[int], expected: int) -> None:
    """By cores and GPU memory where it is left to the service, and as it says where the setting is a number."""
    assert expected == choose_workers(settings_of(WORKERS=workers), cores, lambda _device: gpus)


def test_more_workers_than_a_gpu_holds_are_refused() -> None:
    """Before anything is loaded, with the variable's name and what would do."""
    with pytest.raises(StartError, match=r"^WORKERS: 8 need 1\.5 GB of GPU memory each, .* 8\.0 GB: set it to 5 or"):
        choose_workers(settings_of(WORKERS="8"), 64, lambda _device: [8 * GB])


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="one worker"),
        pytest.param({"WORKERS": "auto", "CLIP_DEVICE": "cpu"}, id="a CPU by setting"),
    ],
)
def test_driver_is_not_asked_for_nothing(environ: dict[str, str]) -> None:
    """Where its answer would change nothing: it takes as long as a start."""

    def ask(_device: str) -> Sequence[int]:
        raise AssertionError("the driver was asked")

    assert 1 == choose_workers(settings_of(**environ), 16, ask)


@pytest.mark.parametrize(
    ("asked", "workers", "expected"),
    [
        pytest.param("auto", "1", 16, id="one worker"),
        pytest.param("auto", "4", 4, id="four"),
        pytest.param("auto", "3", 5, id="not more than cores in all"),
        pytest.param("2", "4", 1, id="one at least"),
        pytest.param("6", "2", 3, id="a number is the pod's too"),
    ],
)
def test_image_processes_are_shared_out(asked: str, workers: str, expected: int) -> None:
    """The pod has as many with several workers as with one."""
    share = share_of_one(settings_of(IMAGE_PROCESSES=asked, WORKERS=workers), 16)

    assert expected == share.image_processes


def test_bytes_are_shared_out() -> None:
    """Of what requests may hold each worker has its part."""
    share = share_of_one(settings_of(WORKERS="2", MAX_BODY_BYTES=str(MIB)), 16)

    assert 256 * MIB == share.max_image_bytes_in_flight


@pytest.mark.parametrize("workers", [pytest.param(str(count), id=f"{count} workers") for count in (1, 2, 4, 16)])
def test_whatever_a_pod_takes_each_worker_takes(workers: str) -> None:
    """How large a body may be does not depend on the number of workers, nor does any image fit into none of them."""
    settings = settings_of(WORKERS=workers)
    share = share_of_one(settings, 16)

    assert max_body_bytes(settings) == max_body_bytes(share)
    assert share.max_image_bytes_in_flight >= 2 * settings.max_image_size_bytes


def test_worker_that_nobody_has_counted_is_refused() -> None:
    """What `auto` is has to be known once for all of them."""
    with pytest.raises(StartError, match=r"^WORKERS: "):
        share_of_one(settings_of(WORKERS="auto"), 16)
