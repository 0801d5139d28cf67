"""A run on this machine alone, with a Ray of its own that ends with it, however it ends."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from pyarrow import csv

from tests.bulk.commands import Command, ray_folder, run, started, table_of
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded, natural

pytestmark = pytest.mark.timeout(1800)

AGENTS = ("dashboard/agent.py", "runtime_env/agent/main.py", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
INTERRUPTED = "interrupted: the same command with --resume goes on after what is done"
ROWS = 24
PIECES_BEFORE_THE_GATE = 3


@pytest.fixture
def settings() -> Iterator[dict[str, str]]:
    with ray_folder() as folder:
        yield {"RAY_TMPDIR": str(folder), "IMAGE_DOWNLOAD_TIMEOUT_S": "200"}


def below(command: Command) -> list[psutil.Process]:
    """All processes of a run."""
    return psutil.Process(command.process.pid).children(recursive=True)


def is_agent(process: psutil.Process) -> bool:
    """Whether it is one of Ray's that, when its Ray is gone, looks for it for a minute and then ends."""
    with suppress(psutil.NoSuchProcess):
        return any(name in " ".join(process.cmdline()) for name in AGENTS)
    return False


def wait_for_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=400)

    assert [] == alive


EMBED = ["embed", "--input", "rows.csv", "--text-column", "text", "--output"]


@pytest.mark.parametrize(
    ("command", "said", "left"),
    [
        pytest.param(EMBED, INTERRUPTED, ["_estimate"], id="embed"),
        pytest.param(["retry"], "interrupted: the same command goes on after what is done", ["_estimate"], id="retry"),
        pytest.param(
            ["embed", "--estimate", *EMBED[1:]],
            "interrupted: there is no estimate, and nothing is written",
            [],
            id="estimate",
        ),
    ],
)
def test_ctrl_c_while_ray_starts_says_so(
    command: list[str], said: str, left: list[str], settings: dict[str, str], tmp_path: Path
) -> None:
    """Ray's own words are kept off standard error then; these are not, and nothing that it has started is left.

    How to go on is as the command can, and an estimate takes its sample along.
    """
    out = tmp_path / "out"
    (out / "_estimate").mkdir(parents=True)
    arguments = [*command, str(out)]
    with started(arguments, settings, output=out) as running:
        running.wait_for(lambda: below(running))
        processes = below(running)
        running.process.send_signal(signal.SIGINT)
        ended = running.end()
        wait_for_end(processes)

    assert (130, "", f"{said}\n") == (ended.status, ended.out, ended.err)
    assert left == [path.name for path in out.iterdir()]


def test_nothing_is_left_running_and_nothing_lost(
    images: ImageServer, settings: dict[str, str], tmp_path: Path
) -> None:
    """Killed, interrupted by Ctrl-C, and then gone on with to the end: each time its processes end with it."""
    url, gate = images.add_gated("/alone-gated.png", encoded(natural(60, 40, 1), "PNG"))
    quick = images.add("/alone.png", encoded(natural(60, 40, 2), "PNG"))
    urls = [quick] * ROWS
    # In two pieces, as many as are decoded at once.
    urls[PIECES_BEFORE_THE_GATE * 4] = urls[PIECES_BEFORE_THE_GATE * 4 + 4] = url
    csv.write_csv(pa.table({"url": urls}), tmp_path / "rows.csv")
    out = tmp_path / "out"
    arguments = ["embed", "--input", str(tmp_path / "rows.csv"), "--url-column", "url", "--output", str(out)]
    arguments += ["--piece-rows", "4", "--resume"]

    ends, agents = [], list[psutil.Process]()
    for number in (signal.SIGKILL, signal.SIGINT):
        with started(arguments, settings, output=out) as command:
            command.wait_for_pieces(PIECES_BEFORE_THE_GATE)
            for _ in range(2):
                gate.wait_for_request()
            processes = below(command)
            agents += filter(is_agent, processes)
            command.process.send_signal(number)
            ends.append(command.end())
            wait_for_end([process for process in processes if process not in agents])
    gate.open()
    after = run(arguments, settings, output=out)
    wait_for_end(agents)

    killed, interrupted = ends
    assert -signal.SIGKILL == killed.status
    assert (130, "", [INTERRUPTED]) == (interrupted.status, interrupted.out, interrupted.err.splitlines()[-1:])
    assert "Traceback" not in interrupted.err
    assert (0, f"{ROWS} rows = {ROWS} vectors + 0 rejects") == (after.status, after.out.splitlines()[0]), after
    assert list(range(ROWS)) == table_of(out).ids
    # What was done was not done again.
    assert after.out.splitlines()[1].startswith(f"{ROWS - 4 * PIECES_BEFORE_THE_GATE} rows in ")
