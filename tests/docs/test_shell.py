"""The reader's shell keeps what a block leaves, and stops at the first command that fails."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.docs_check.blocks import Block, Doing
from tools.docs_check.shell import BlockFailed, Shell, clean_environment, shell, terminal
from tools.testbed.loopback import kept_port


def block(text: str, language: str = "sh") -> Block:
    return Block("page.md:1", language, text, Doing.RUN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has a .venv whose python is the one that runs the tests."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


@pytest.fixture
def reader(folder: Path) -> Iterator[Shell]:
    with shell(folder, clean_environment()) as running:
        yield running


def test_variables_live_from_block_to_block(reader: Shell, folder: Path) -> None:
    """As in a terminal, for commands and for Python."""
    reader.run(block("export NAME=kept; OTHER=too"))
    reader.run(block('import os, pathlib\npathlib.Path("python").write_text(os.environ["NAME"])', "python"))
    reader.run(block('printf "$NAME $OTHER" > shell'))

    assert ["kept", "kept too"] == [(folder / name).read_text("utf-8") for name in ("python", "shell")]


def test_command_that_reads_finds_nothing(reader: Shell, folder: Path) -> None:
    """What is run must not eat the commands that come after it."""
    reader.run(block("cat > read\nprintf after > after"))

    assert ["", "after"] == [(folder / name).read_text("utf-8") for name in ("read", "after")]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("false\ntouch went-on", id="first of two"),
        pytest.param("false | cat\ntouch went-on", id="in a pipe"),
        pytest.param('echo "$UNSET"\ntouch went-on', id="unset variable"),
        pytest.param("if\ntouch went-on", id="syntax"),
        pytest.param("exit 3", id="exit"),
    ],
)
def test_failure_names_the_block(reader: Shell, folder: Path, text: str) -> None:
    """The first command that fails ends the check, and what follows is not run."""
    with pytest.raises(BlockFailed, match=r"page\.md:1: exit status [1-9]"):
        reader.run(block(text))
    assert not (folder / "went-on").exists()


def test_failing_python_fails(reader: Shell) -> None:
    """An example that raises is wrong."""
    with pytest.raises(BlockFailed):
        reader.run(block("raise SystemExit(4)", "python"))


def test_background_commands_end_with_the_shell(folder: Path) -> None:
    """The README starts an image server with `&`."""
    os.mkfifo(folder / "held")
    held = os.open(folder / "held", os.O_RDONLY | os.O_NONBLOCK)
    with open(held, "rb") as end:
        with shell(folder, clean_environment()) as running:
            running.run(block("sleep 1000 > held &\n: > held"))
        os.set_blocking(held, True)

        # Until the last writer has gone.
        assert b"" == end.read()


def test_terminal_is_entered_when_its_url_answers(folder: Path) -> None:
    """And ends with all that it has started."""
    with kept_port() as port:
        serving = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
        started = Block("page.md:1", "sh", serving, Doing.START, f"http://127.0.0.1:{port}/")
        with terminal(started, folder, clean_environment()), socket.create_connection(("127.0.0.1", port)):
            pass

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_service_that_ends_before_it_answers_fails(folder: Path) -> None:
    """Nobody waits for what is gone."""
    with kept_port() as port:
        started = Block("page.md:1", "sh", "exit 7", Doing.START, f"http://127.0.0.1:{port}/")

        with pytest.raises(BlockFailed, match="status 7"), terminal(started, folder, clean_environment()):
            pass
