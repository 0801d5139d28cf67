"""`python -m bulk`: embed a table of images or texts, and what of it was rejected again."""

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from bulk.account import Cost, Summary
from bulk.asking import Asker, require_settings
from bulk.cluster import Machines, cluster, sizes
from bulk.errors import BulkError
from bulk.estimate import estimate, remove_sample
from bulk.inputs import Input, Kind
from bulk.lance import FORMAT as LANCE
from bulk.lance import dataset_uri
from bulk.places import Place, require_no_key
from bulk.plan import Folders, Model, Plan, Planned, read_plan, write_plan
from bulk.progress import Progress
from bulk.run import Options, Run, identify
from bulk.store import DTYPES, Store
from core.errors import StartError
from core.settings import ServiceSettings, load_settings

_FAILED, _INTERRUPTED = 1, 130
_STANDARD_ERROR = 2
# What is said at an interruption, by command.
_GOES_ON = {
    "embed": "the same command with --resume goes on after what is done",
    "retry": "the same command goes on after what is done",
}
_NOTHING_WRITTEN = "there is no estimate, and nothing is written"
_SAMPLE_ROWS = 2_000
PIECE_ROWS = 512

_DESCRIPTION = """Embed every row of a table: images by URL, by path or by their bytes, or texts. Each row of the input
is in the output once: with its vector, or among the rejects with the reason."""

_EPILOG = """Runs on this machine, or on the Ray cluster that RAY_ADDRESS names. The model and the limits are set by the
pod's variables (CLIP_MODEL, CLIP_DEVICE, MAX_IMAGE_SIZE_BYTES, DOWNLOAD_ALLOW_HOSTS ...), a service by the client's.

exit status: 0, also where rows were rejected; 1 if the run did not come to its end; 2 for wrong use; 130 if it was
interrupted"""

# Of the service, which has callers: a run has none.
_OF_CALLERS = ("EMBEDDING_HMAC_SECRET", "EMBEDDING_HMAC_SECRET_PREVIOUS", "EMBEDDING_HMAC_CLIENTS", "API_KEYS")
# What other machines of a cluster are told of the environment, where they are to ask a service.
_OF_CLIENTS = ("CLIP_", "EMBEDDING_", "RUNPOD_")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command and return its exit status. Raises `SystemExit` for what argparse says itself."""
    options = _parser().parse_args(arguments)
    # A copy, for as long as this process lives: while Ray starts, its standard error is nowhere.
    said = os.dup(_STANDARD_ERROR)
    _end_by_signals(options, said)
    try:
        command = _Command(options, environ)
        with cluster(environ) as machines:
            # Again: Ray has set its own.
            _end_by_signals(options, said)
            summary = command.run(machines)
    except (BulkError, StartError) as error:
        print(error, file=sys.stderr)
        return _FAILED
    if summary is not None:
        _say(summary)
    return 0


class _Command:
    """What the command line asks for."""

    def __init__(self, options: argparse.Namespace, environ: Mapping[str, str]) -> None:
        """What can be refused without a machine is refused here. Raises `StartError` and `BulkError`."""
        self._given = options
        self._environ = environ
        self._settings = _settings(environ)
        self._folders = Folders(Place.of(options.output))
        if options.command == "embed":
            self._require_format(options.format)
        if options.through == "client":
            require_settings(environ)

    def run(self, machines: Machines) -> Summary | None:
        """The summary, or None where there is only an estimate. Raises `BulkError`."""
        self._sizes = sizes(machines, encoders=self._given.encoders, decoders=self._given.decoders)
        self._options = Options(
            self._sizes,
            host_connections=self._given.host_connections,
            cost=Cost(self._given.price_per_hour),
            service=_of_clients(self._environ) if self._given.through == "client" else None,
        )
        if self._given.command == "retry":
            return self._retry()
        planned = self._planned()
        if self._given.estimate is not None:
            made = estimate(planned, self._folders, self._settings, self._options, rows=self._given.estimate)
            print("\n".join(made.lines()))
            return None
        return self._run(self._plan(planned)).embed(Progress())

    def _retry(self) -> Summary:
        plan = read_plan(self._folders)
        if plan is None:
            raise BulkError(f"{self._given.output}: is no output of a run")
        self._require_format(plan.planned.format)
        return self._run(self._with_model(plan, self._model())).retry(Progress())

    def _planned(self) -> Planned:
        given = self._given
        return Planned(_input(given), self._model(), given.dtype, given.format, given.piece_rows)

    def _plan(self, planned: Planned) -> Plan:
        """The one that is there, with --resume, or a new one. Raises `BulkError`."""
        there = read_plan(self._folders)
        if there is None:
            return write_plan(self._folders, planned, planned.input.batches())
        if not self._given.resume:
            raise BulkError(f"{self._given.output}: there is an output already: --resume goes on with it")
        same = self._with_model(there, planned.model)
        for name in ("input", "dtype", "format"):
            before, now = getattr(there.planned, name), getattr(planned, name)
            if before != now:
                raise BulkError(f"--resume: {name} was {before}, and is {now} now: use another output")
        return same

    def _require_format(self, name: str) -> None:
        """Before there is anything to lose. Raises `BulkError` when it cannot be written here."""
        if name == LANCE:
            dataset_uri(self._folders)

    def _with_model(self, plan: Plan, model: Model) -> Plan:
        """The plan for another way to the same model. Raises `BulkError` for another model."""
        if model.fingerprint != plan.model.fingerprint:
            raise BulkError(
                f"the output's vectors have fingerprint {plan.model.fingerprint} and this model's have"
                f" {model.fingerprint}: they cannot be mixed; use the same model, or another output"
            )
        return replace(plan, planned=replace(plan.planned, model=model))

    def _model(self) -> Model:
        if self._options.service is not None:
            return Asker(self._environ, self._settings.max_image_size_bytes).model()
        return identify(self._settings, self._sizes)

    def _run(self, plan: Plan) -> Run:
        return Run(Store(plan, self._folders), self._settings, self._options)


def _settings(environ: Mapping[str, str]) -> ServiceSettings:
    """The pod's, without those for its callers. Raises `StartError`."""
    read = {name: value for name, value in environ.items() if name not in _OF_CALLERS}
    settings = load_settings({**read, "ALLOW_INSECURE_AUTH": "1"})
    # Nothing comes twice; and then nobody hashes downloads.
    return settings.model_copy(update={"cache_bytes": 0})


def _of_clients(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_OF_CLIENTS)}


def _input(options: argparse.Namespace) -> Input:
    columns = {
        Kind.IMAGE_URL: options.url_column,
        Kind.IMAGE_PATH: options.path_column,
        Kind.IMAGE_BYTES: options.bytes_column,
        Kind.TEXT: options.text_column,
    }
    kind, column = next(((kind, name) for kind, name in columns.items() if name), (Kind.IMAGE_FILE, None))
    return Input(options.input, kind, column, options.id_column)


def _say(summary: Summary) -> None:
    print(f"{summary.rows:,} rows = {summary.vectors:,} vectors + {summary.rejects:,} rejects")
    for code, count in summary.rejects_by_code.items():
        print(f"  {code}: {count:,}")
    if not summary.rows_of_this_run:
        return
    cost = "" if summary.cost is None else f", cost {summary.cost:,.2f}"
    print(
        f"{summary.rows_of_this_run:,} rows in {summary.seconds:,.0f} s, {summary.rows_per_second:,.0f} a second{cost}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bulk",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _common()
    _add_embed(commands.add_parser("embed", parents=[common], help="embed a table, or go on with it"))
    retry = commands.add_parser("retry", parents=[common], help="try the rows again that may have a vector now")
    retry.add_argument("output", type=_without_key, metavar="OUTPUT", help="of a run that has come to its end")
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--through", choices=("model", "client"), default="model", help="a model of one's own (default), or a service")
    add(
        "--host-connections",
        type=_positive,
        default=64,
        metavar="N",
        help="downloads per host at once, over all machines",
    )
    add("--encoders", type=_positive, metavar="N", help="processes with a model, or clients; one per GPU or machine")
    add("--decoders", type=_positive, metavar="N", help="groups of processes that download and decode")
    add("--price-per-hour", type=float, metavar="X", help="of all machines together, for the cost in the summary")
    return common


def _add_embed(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--input",
        type=_without_key,
        required=True,
        metavar="URI",
        help="Parquet, CSV, JSON lines or images: a file, a folder, a pattern",
    )
    add("--output", type=_without_key, required=True, metavar="URI", help="a folder")
    add("--id-column", metavar="NAME", help="whole numbers or strings, each once; without it rows are numbered from 0")
    column = parser.add_mutually_exclusive_group()
    column.add_argument("--url-column", metavar="NAME", help="of images")
    column.add_argument("--path-column", metavar="NAME", help="of images, on this machine or as URIs")
    column.add_argument("--bytes-column", metavar="NAME", help="of images, in Parquet")
    column.add_argument("--text-column", metavar="NAME")
    add("--dtype", choices=tuple(DTYPES), default="float32", help="of the vectors")
    add("--format", choices=("parquet", LANCE), default="parquet", help="lance: a dataset beside the Parquet")
    add("--resume", action="store_true", help="go on with the output that is there")
    add(
        "--piece-rows",
        type=_positive,
        default=PIECE_ROWS,
        metavar="N",
        help="embedded at once; lost when a machine is",
    )
    add(
        "--estimate",
        nargs="?",
        type=_positive,
        const=_SAMPLE_ROWS,
        metavar="ROWS",
        help=f"embed a sample ({_SAMPLE_ROWS:,} rows) and say what all of it would take; writes nothing",
    )


def _without_key(uri: str) -> str:
    try:
        require_no_key(uri)
    except BulkError as error:
        # Of any other exception argparse shows what was given.
        raise argparse.ArgumentTypeError(str(error)) from error
    return uri


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _end_by_signals(options: argparse.Namespace, said: int) -> None:
    """Have Ctrl-C and SIGTERM end this process, and say so there."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _signal, _frame: _end(options, said))


def _end(options: argparse.Namespace, said: int) -> NoReturn:
    """At once: an exception may be raised where nobody hears it, in a finaliser of Ray's, and then the run would go on.

    What is done is in files, each of which is whole; what Ray has started for this run ends with the process.
    """
    is_estimate = options.command == "embed" and options.estimate is not None
    behind_the_bar = "\n" if os.isatty(said) else ""
    words = _NOTHING_WRITTEN if is_estimate else _GOES_ON[options.command]
    os.write(said, f"{behind_the_bar}interrupted: {words}\n".encode())
    if is_estimate:
        with suppress(Exception):
            remove_sample(Folders(Place.of(options.output)))
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
