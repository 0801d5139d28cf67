"""Ray: this machine alone, or the cluster that RAY_ADDRESS names; and how a run is spread over it."""

import logging
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

from bulk.errors import BulkError
from bulk.places import explained, reason
from core.process import cpu

# Of this machine's memory, for what is on its way between the stages. A piece of 512 images takes 77 MB: the more cores
# decode, the more of them there are.
_OBJECT_STORE_BYTES, _OBJECT_STORE_BYTES_PER_CORE = 1_500_000_000, 250_000_000
# Where there is less than it asks for, Ray puts them on a disk.
_SHARED_MEMORY, _SHARE_OF_IT = Path("/dev/shm"), 0.9  # noqa: S108 - a filesystem, not a name that somebody could take

# A cluster's head takes a connection at once, or it is not there.
_ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many processes each stage has, and what each takes of a machine."""

    encoders: int
    encoder_cpus: float
    encoder_gpus: float
    decoders: int
    decoder_cpus: float
    decoder_processes: int


@dataclass(frozen=True, slots=True)
class Machines:
    """What a cluster has: `cpus` and `gpus` of all machines together."""

    nodes: int
    cpus: float
    gpus: float


# Ray gives the step that takes the plan apart a whole processor of any machine that has one, and hardly uses it.
_FOR_THE_PLAN = 1.0
# Of what is left of a machine without a GPU, and with one. The rest is for whatever reads and writes: with nothing for
# it, it waits until the plan has been taken apart, and with it the run, where a slow host holds that up.
_FOR_ENCODING, _FOR_DECODING = 0.5, 0.4
_FOR_DECODING_ALONE = 0.9
_CPUS_PER_GPU = 1.0
_FEWEST_PROCESSORS = 2
_CPUS_PER_DECODER = 4.0


def sizes(machines: Machines, *, encoders: int | None, decoders: int | None) -> Sizes:
    """One encoder per GPU, and all other processors for decoding; without a GPU one of each per machine, where the two
    share its cores. What is counted here is what Ray plans with. Raises `BulkError` when there is not enough of it.
    """
    nodes, gpus = machines.nodes, int(machines.gpus)
    # As if all machines were alike.
    cpus = machines.cpus / nodes
    left = cpus - _CPUS_PER_GPU * gpus / nodes - _FOR_THE_PLAN
    if left <= 0:
        has = f"{machines.cpus:g} processors and {gpus} GPUs on {nodes} machines"
        raise BulkError(f"the cluster has {has}: a processor for each GPU and two more on each machine are needed")
    if gpus:
        of_machine = max(1, int(left // _CPUS_PER_DECODER))
        return Sizes(
            encoders=encoders or gpus,
            encoder_cpus=_CPUS_PER_GPU,
            encoder_gpus=1.0,
            decoders=decoders or nodes * of_machine,
            decoder_cpus=min(_CPUS_PER_DECODER, left) * _FOR_DECODING_ALONE,
            # What is left over decodes too, and so does what the plan hardly uses.
            decoder_processes=max(1, int((left + _FOR_THE_PLAN) / of_machine)),
        )
    return Sizes(
        encoders=encoders or nodes,
        encoder_cpus=left * _FOR_ENCODING,
        encoder_gpus=0.0,
        decoders=decoders or nodes,
        decoder_cpus=left * _FOR_DECODING,
        decoder_processes=max(1, int(cpus)),
    )


def object_store_bytes(cores: int, shared_memory_bytes: int) -> int:
    """Of a Ray of this machine alone: by its cores, as far as there is shared memory for it."""
    return max(_OBJECT_STORE_BYTES, min(cores * _OBJECT_STORE_BYTES_PER_CORE, int(_SHARE_OF_IT * shared_memory_bytes)))


def _shared_memory_bytes() -> int:
    return disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0


@contextmanager
def cluster(environ: Mapping[str, str]) -> Iterator[Machines]:
    """Join the cluster of RAY_ADDRESS, or start one here. Raises `BulkError` when the cluster cannot be joined."""
    # What matters is raised. Its C++ part would write more, on standard error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # It advises where there is less to do than there are processes.
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks", UserWarning)
    address = environ.get("RAY_ADDRESS")
    alone = {
        "include_dashboard": False,
        "num_cpus": max(_FEWEST_PROCESSORS, cpu.available_cores()),
        "object_store_memory": object_store_bytes(cpu.available_cores(), _shared_memory_bytes()),
    }
    here: dict[str, Any] = {} if address else alone
    if address:
        _require_answer(address)
    try:
        with _quiet():
            ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **here)
    except Exception as error:
        raise BulkError(f"RAY_ADDRESS: {address or 'this machine'}: {reason(error)}") from error
    # Of processes that die it tells on standard output, whatever `log_to_driver` says; there is no other switch.
    ray._private.worker._worker_logs_enabled = False
    try:
        # A head may have no processors of its own, and then it has no process of a stage either.
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        resources = ray.cluster_resources()
        yield Machines(len(nodes), resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray itself asks for minutes where nobody is. Raises `BulkError`."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        # A word of Ray's own, such as `auto`.
        return
    with (
        explained(f"RAY_ADDRESS: {address}"),
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_WITHIN_S),
    ):
        return


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's C++ part says on standard error that it was told to say nothing."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def explained_by_ray() -> Iterator[None]:
    """What failed somewhere in the cluster, in one line. Raises `BulkError`."""
    import ray

    try:
        yield
    except ray.exceptions.ActorDiedError as error:
        raise BulkError(_said_by_actor(str(error))) from error
    except ray.exceptions.RayError as error:
        raise BulkError(reason(_cause(error))) from error


def _said_by_actor(text: str) -> str:
    """What it could not start for stands in the last line, behind the name of the exception; else the first says it."""
    lines = text.strip().splitlines()
    return lines[-1].partition(": ")[2] if "its creation task" in lines[0] else lines[0]


def _cause(error: BaseException) -> BaseException:
    """What was raised first: Ray wraps it once for every process that it passes."""
    seen = error
    while (inner := getattr(seen, "cause", None) or seen.__cause__) is not None:
        seen = inner
    return seen
