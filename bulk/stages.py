"""The stages of a run as Ray Data calls them: a table with one piece in, a table of what became of it out.

Each is a class that Ray makes once in a process of its own, and calls again and again. What a device or the image
processes do not survive ends that process: Ray starts another one and gives it the same piece.
"""

import logging
import logging.config
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import ray

from bulk.asking import Asker
from bulk.decoding import Decoder
from bulk.encoding import Encoder
from bulk.errors import BulkError
from bulk.hosts import Need, Places
from bulk.outcomes import (
    CODE,
    PART,
    PIECE,
    POSITION,
    VECTOR,
    Work,
    as_row,
    of_row,
    rejects_of,
    table_of,
    vectors_array,
    work_of,
)
from bulk.plan import Folders, Plan
from bulk.sources import Sources
from bulk.store import Store
from core.clip.engine import EngineBroken
from core.process import cpu
from core.process.logs import logging_config
from core.settings import ServiceSettings

logger = logging.getLogger(__name__)

VECTORS = "vectors"
# How the driver tells its stages which rows are a piece: whole row groups of the plan, or some rows.
WORK_SCHEMA = pa.schema([(PART, pa.int32()), (PIECE, pa.int32()), (POSITION, pa.list_(pa.int32()))])
DONE_SCHEMA = pa.schema([(PART, pa.int32()), (PIECE, pa.int32()), (VECTORS, pa.int32()), (CODE, pa.list_(pa.string()))])


@dataclass(frozen=True, slots=True)
class Job:
    """What every stage knows."""

    plan: Plan
    folders: Folders
    settings: ServiceSettings

    def work(self, row: pa.Table) -> Work:
        """The piece that a row names."""
        part, piece = row.column(PART)[0].as_py(), row.column(PIECE)[0].as_py()
        positions = row.column(POSITION)[0].values
        if positions is not None:
            return Work(part, piece, positions.to_numpy())
        begin = piece * self.plan.piece_rows
        return Work(part, piece, np.arange(begin, begin + self.plan.rows_of(part, piece), dtype=np.int32))


class SharedHosts:
    """Shares out places among all machines: as an actor there is one of it."""

    def __init__(self, limit: int) -> None:
        self._places = Places(limit)

    def ask(self, asker: str, needs: Mapping[str, Need]) -> dict[str, int]:
        self._places.forget_idle()
        return self._places.ask(asker, needs)


class _HostsOfCluster:
    """A `bulk.hosts.Hosts` that asks the actor."""

    def __init__(self, actor: "ray.actor.ActorHandle[SharedHosts]") -> None:
        self._actor = actor
        self._name = f"{ray.get_runtime_context().get_actor_id()}-{os.getpid()}"

    def ask(self, needs: Mapping[str, Need]) -> dict[str, int]:
        granted: Any = ray.get(self._actor.ask.remote(self._name, dict(needs)))
        return dict(granted)


class Decode:
    """Images to pixels: a row of all of a piece, which has bytes of (3, size, size) where each vector will be."""

    def __init__(self, job: Job, hosts: "ray.actor.ActorHandle[SharedHosts]", processes: int) -> None:
        logging.config.dictConfig(logging_config(job.settings.log_level))
        self._job = job
        self._decoder = Decoder(job.settings, job.plan.model.size_px, processes=processes, hosts=_HostsOfCluster(hosts))

    def __call__(self, row: pa.Table) -> pa.Table:
        work = self._job.work(row)
        sources = Sources(self._job.plan, self._job.folders).read(work)
        pixels, rejects = self._decoder.pixels(sources)
        if not self._decoder.healthy:
            _end_process("image processes do not start")
        flat = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(pixels[0].nbytes), len(pixels), [None, pa.py_buffer(pixels)]
        )
        return as_row(table_of(work, rejects, flat))


class EncodeImages:
    """Pixels to vectors."""

    def __init__(self, job: Job) -> None:
        self._encoder = _encoder(job)
        self._size_px = job.plan.model.size_px

    def __call__(self, row: pa.Table) -> pa.Table:
        decoded = of_row(row)
        work = work_of(decoded)
        rejects = rejects_of(decoded)
        column = decoded.column(VECTOR).chunk(0)
        pixels = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, 3, self._size_px, self._size_px)
        begin = column.offset
        try:
            vectors, found = self._encoder.encode_images(pixels[begin : begin + len(work)], rejects)
        except EngineBroken as error:
            _end_process(str(error))
        return table_of(work, found, vectors_array(vectors, pa.float32()))


class EncodeTexts:
    """Texts to vectors."""

    def __init__(self, job: Job) -> None:
        self._encoder = _encoder(job)
        self._job = job

    def __call__(self, row: pa.Table) -> pa.Table:
        work = self._job.work(row)
        texts = Sources(self._job.plan, self._job.folders).read(work)
        try:
            vectors, found = self._encoder.encode_texts([text if isinstance(text, str) else None for text in texts])
        except EngineBroken as error:
            _end_process(str(error))
        return table_of(work, found, vectors_array(vectors, pa.float32()))


class AskService:
    """Images and texts to vectors by a pod or an endpoint."""

    def __init__(self, job: Job, environ: Mapping[str, str]) -> None:
        self._job = job
        self._asker = Asker(environ, job.settings.max_image_size_bytes, fingerprint=job.plan.model.fingerprint)

    def __call__(self, row: pa.Table) -> pa.Table:
        work = self._job.work(row)
        sources = Sources(self._job.plan, self._job.folders).read(work)
        vectors, rejects = self._asker.ask(sources, dim=self._job.plan.model.dim, kind=self._job.plan.input.kind)
        return table_of(work, rejects, vectors_array(vectors, pa.float32()))


def keep(outcomes: pa.Table, store: Store) -> pa.Table:
    """Write what became of a piece, and say in one row how it was."""
    work = work_of(outcomes)
    store.write_piece(work, outcomes)
    codes = [code for code in outcomes.column(CODE).to_pylist() if code is not None]
    return pa.table([[work.part], [work.piece], [len(work) - len(codes)], [codes]], schema=DONE_SCHEMA)


def _encoder(job: Job) -> Encoder:
    logging.config.dictConfig(logging_config(job.settings.log_level))
    cpu.limit_library_threads(cpu.available_cores())
    encoder = Encoder(job.settings)
    if encoder.fingerprint != job.plan.model.fingerprint:
        # Its vectors would be mixed with the others', and another try would find the same files.
        here, wanted = encoder.fingerprint, job.plan.model.fingerprint
        raise BulkError(f"a machine has another model: its fingerprint is {here}, and the run's is {wanted}")
    return encoder


def _end_process(why: str) -> NoReturn:
    logger.critical("a process of the run cannot go on", extra={"cause": why})
    os._exit(1)
