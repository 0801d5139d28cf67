"""One run over a plan: pieces on Ray Data, parts, the account. What is done stays done, whatever ends the run."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from bulk.account import Account, Cost, Summary, per_second
from bulk.cluster import Sizes, explained_by_ray
from bulk.encoding import Encoder
from bulk.errors import BulkError
from bulk.lance import FORMAT as LANCE
from bulk.lance import write_dataset
from bulk.outcomes import CODE, PART
from bulk.places import explained
from bulk.plan import Model
from bulk.progress import Progress
from bulk.stages import VECTORS, WORK_SCHEMA, AskService, Decode, EncodeImages, EncodeTexts, Job, SharedHosts, keep
from bulk.store import PartCounts, Store
from core.settings import ServiceSettings

SUMMARY = "summary.json"

# What a process may have waiting beside what it does: the next piece is there when it needs it.
_PIECES_AHEAD = 2
# One piece waits for its last, slow downloads while the next one begins.
_DECODED_AT_ONCE = 2
# Of a processor: these wait for a disk or a network.
_LITTLE_CPU = 0.02
_KEPT_AT_ONCE = 4
_MERGES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes about it; nothing of it changes what is written. `service` is asked instead of a model, if any."""

    sizes: Sizes
    host_connections: int
    cost: Cost
    service: "dict[str, str] | None" = None
    """The environment of a client's settings."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a part that are embedded at once: by position, or a row group of the plan where that is None."""

    part: int
    number: int
    positions: Sequence[int] | None = None


class Run:
    """What is to be done, and the doing of it."""

    def __init__(self, store: Store, settings: ServiceSettings, options: Options) -> None:
        self._store = store
        self._plan = store.plan
        self._settings = settings
        self._options = options

    def embed(self, progress: Progress) -> Summary:
        """Do all that has not been done, and say what is there then. Raises `BulkError`."""
        self._store.make()
        self._store.merge_leftovers()
        complete, there = self._store.complete_parts(), self._store.pieces_there()
        pieces = []
        for part in range(len(self._plan.parts)):
            if part not in complete:
                done = {number for number, place in there.get(part, {}).items() if self._store.is_whole(place)}
                pieces += [Piece(part, number) for number in range(self._plan.pieces_of(part)) if number not in done]
        left = sum(self._plan.rows_of(piece.part, piece.number) for piece in pieces)
        return self._do(pieces, complete, Account(self._plan.rows, before=self._plan.rows - left), progress)

    def retry(self, progress: Progress) -> Summary:
        """Try the rows again that were rejected and may have a vector now. Raises `BulkError` for an unfinished run."""
        self._store.make()
        self._store.merge_leftovers()
        complete = self._store.complete_parts()
        if len(complete) < len(self._plan.parts):
            raise BulkError("the run has not come to its end: go on with it first, with embed --resume")
        pieces = []
        for part in complete:
            positions = self._store.retryable(part)
            size = self._plan.piece_rows
            groups = [positions[begin : begin + size] for begin in range(0, len(positions), size)]
            pieces += [Piece(part, number, group) for number, group in enumerate(groups)]
        again = sum(len(piece.positions or ()) for piece in pieces)
        return self._do(pieces, complete, Account(again), progress)

    def _do(
        self, pieces: Sequence[Piece], complete: dict[int, PartCounts], account: Account, progress: Progress
    ) -> Summary:
        began_s = time.monotonic()
        waiting = Counter(piece.part for piece in pieces)
        merges = _Merges(self._store)
        for part in range(len(self._plan.parts)):
            if part not in complete and not waiting[part]:
                merges.begin(part)
        progress.begin(account)
        for part, outcomes in self._outcomes(pieces):
            account.note(outcomes)
            progress.show(account)
            waiting[part] -= 1
            if waiting[part] == 0:
                merges.begin(part)
        merges.wait()
        progress.end()
        return self._finish(account, time.monotonic() - began_s, progress.rate)

    def _outcomes(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Counter[str | None]]]:
        """The codes of each piece that has been kept, None for vectors, in the order in which that was done."""
        if not pieces:
            return
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # What was raised in a stage says what is wrong; Ray's own says only that something is.
        context.raise_original_map_exception = True
        # One block for each piece, whatever its size.
        context.target_max_block_size = None
        with explained_by_ray():
            done: Iterator[Any] = iter(
                self._dataset(pieces).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            )
            for row in (row for batch in done for row in batch.to_pylist()):
                codes: Counter[str | None] = Counter(row[CODE])
                codes[None] = row[VECTORS]
                yield row[PART], codes

    def _dataset(self, pieces: Sequence[Piece]) -> Dataset:
        job = Job(self._plan, self._store.folders, self._settings)
        listed = ray.data.from_arrow([_table(group) for group in _by_part(pieces)])
        # A block for each piece: what Ray gives to one call of a stage.
        each = listed.map_batches(
            _as_it_is, compute=TaskPoolStrategy(1), batch_size=1, batch_format="pyarrow", num_cpus=_LITTLE_CPU
        )
        done = self._stages(each.repartition(target_num_rows_per_block=1), job)
        return done.map_batches(
            partial(keep, store=self._store),
            # Each is a process of Ray's, and one is enough for what an encoder makes unless the disk is far away.
            compute=TaskPoolStrategy(_KEPT_AT_ONCE * self._options.sizes.encoders),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_LITTLE_CPU,
        )

    def _stages(self, pieces: Dataset, job: Job) -> Dataset:
        sizes, service = self._options.sizes, self._options.service
        if service is not None:
            return _mapped(pieces, AskService, [job, service], sizes.encoders, cpus=sizes.encoder_cpus)
        if not self._plan.input.kind.is_image:
            return self._encoded(pieces, EncodeTexts, job)
        # The machine that it is on may be lost; whoever asks then waits for the next one.
        shared = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(SharedHosts)
        hosts = shared.remote(self._options.host_connections)
        decoded = _mapped(
            pieces,
            Decode,
            [job, hosts, sizes.decoder_processes],
            sizes.decoders,
            cpus=sizes.decoder_cpus,
            at_once=_DECODED_AT_ONCE,
        )
        return self._encoded(decoded, EncodeImages, job)

    def _encoded(self, pieces: Dataset, stage: type, job: Job) -> Dataset:
        sizes = self._options.sizes
        return _mapped(pieces, stage, [job], sizes.encoders, cpus=sizes.encoder_cpus, gpus=sizes.encoder_gpus)

    def _finish(self, account: Account, seconds: float, rate: float) -> Summary:
        """Count what is in the files, not what was said on the way. Raises `BulkError` unless that is every row."""
        counts = self._store.complete_parts().values()
        rejects = self._store.reject_codes()
        made = Summary(
            rows=self._plan.rows,
            vectors=sum(part.vectors for part in counts),
            rejects=sum(part.rejects for part in counts),
            rejects_by_code=dict(sorted(rejects.items())),
            rows_of_this_run=account.this_run,
            seconds=round(seconds, 1),
            rows_per_second=per_second(account.this_run, seconds),
            rows_per_second_once_running=per_second(rate),
            cost=self._options.cost.of(seconds),
            model=self._plan.model,
            dtype=self._plan.dtype,
        )
        if made.vectors + made.rejects != made.rows or rejects.total() != made.rejects:
            raise BulkError(f"{made.vectors + made.rejects} of {made.rows} rows are accounted for: use --resume")
        if self._plan.planned.format == LANCE:
            write_dataset(self._store)
        document = orjson.dumps(made.as_json(), option=orjson.OPT_INDENT_2)
        summary = self._store.folders.output / SUMMARY
        with explained(summary.path):
            summary.write(lambda stream: stream.write(document + b"\n"))
        return made


class _Merges:
    """Makes parts of their pieces, some at once, on whichever machine has nothing better to do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._merge = ray.remote(num_cpus=_LITTLE_CPU, max_retries=3)(_merge)
        self._running: list[Any] = []

    def begin(self, part: int) -> None:
        """Raises `BulkError` of an earlier one."""
        if len(self._running) >= _MERGES_AT_ONCE:
            self._wait(1)
        self._running.append(self._merge.remote(self._store, part))

    def wait(self) -> None:
        """For all of them. Raises `BulkError`."""
        self._wait(len(self._running))

    def _wait(self, count: int) -> None:
        if not count:
            return
        done, self._running = ray.wait(self._running, num_returns=count)
        with explained_by_ray():
            ray.get(done)


def _merge(store: Store, part: int) -> None:
    store.merge(part)


def identify(settings: ServiceSettings, sizes: Sizes) -> Model:
    """Load the model once where it will run and say what it is. Raises `BulkError`."""
    with explained_by_ray():
        load = ray.remote(num_cpus=sizes.encoder_cpus, num_gpus=sizes.encoder_gpus, max_calls=1)(_identity)
        model: Model = ray.get(load.remote(settings))
    return model


def _identity(settings: ServiceSettings) -> Model:
    encoder = Encoder(settings)
    return Model(encoder.name, encoder.fingerprint, encoder.dim, encoder.size_px)


def _mapped(
    pieces: Dataset,
    stage: type,
    arguments: Sequence[object],
    processes: int,
    *,
    cpus: float,
    gpus: float = 0.0,
    at_once: int = 1,
) -> Dataset:
    return pieces.map_batches(
        stage,
        fn_constructor_args=arguments,
        compute=ActorPoolStrategy(
            size=processes,
            max_tasks_in_flight_per_actor=at_once + _PIECES_AHEAD,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=at_once > 1,
        ),
        # A row is a piece, and a block. For a stage with a GPU Ray takes a number of rows alone.
        batch_size=1 if gpus else None,
        batch_format="pyarrow",
        num_cpus=cpus,
        num_gpus=gpus or None,
    )


def _as_it_is(pieces: pa.Table) -> pa.Table:
    return pieces


def _by_part(pieces: Iterable[Piece]) -> list[list[Piece]]:
    parts: dict[int, list[Piece]] = {}
    for piece in pieces:
        parts.setdefault(piece.part, []).append(piece)
    return list(parts.values())


def _table(pieces: Sequence[Piece]) -> pa.Table:
    columns = [
        [piece.part for piece in pieces],
        [piece.number for piece in pieces],
        [piece.positions for piece in pieces],
    ]
    return pa.table(columns, schema=WORK_SCHEMA)
