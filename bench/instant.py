"""A pod whose model costs nothing: gunicorn, HTTP, downloads and decodes are real, the engine answers at once."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from bench.pod import connection, wait_until_ready
from bench.trees import Tree
from tools.testbed.process import GUNICORN, PodProcess, environment, pod_process

_INSIDE = Path(__file__).resolve().parent / "inside"
# Without them numpy and torch start a thread per core, pinned to one core or not.
# Nor is anything kept that comes again: the load asks for the same pictures.
_SETTINGS = {"PYTHONPATH": str(_INSIDE), "OMP_NUM_THREADS": "1", "CACHE_BYTES": "0"}


@contextmanager
def instant_pod(
    tree: Tree, settings: Mapping[str, str] | None = None, *, cores: Sequence[int] = ()
) -> Iterator[PodProcess]:
    """A ready pod with the code of `tree` and the bundled model's files; all its processes on `cores`, if given."""
    command = [*_on(cores), *GUNICORN, "instant_pod:app"]
    given = {**_SETTINGS, **tree.settings, **(settings or {})}
    with pod_process(given, ready=False, command=command, folder=tree.folder) as pod:
        wait_until_ready(pod)
        yield pod


def thread_names(base_url: str) -> dict[int, str]:
    """Names of the threads that Python has started in the pod's worker, by native id."""
    with closing(connection(base_url)) as asking:
        asking.request("GET", "/bench/threads")
        names = json.loads(asking.getresponse().read())["threads"]
    return {int(native_id): name for native_id, name in names.items()}


def decode_ms(tree: Tree, files: Sequence[Path], *, core: int) -> float:
    """Milliseconds of processor per file from its bytes to model pixels, in a process of its own."""
    command = [*_on([core]), sys.executable, "-m", "decode_alone", *map(str, files)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, cwd=tree.folder, env=environment(**_SETTINGS), check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def _on(cores: Sequence[int]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
