"""The command line, as far as it needs no Ray: what is wrong with it is said before anything starts."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulk.__main__ import main
from tools.testbed.loopback import kept_port

EMBED = ["embed", "--input", "in", "--output", "out"]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command has Ctrl-C and SIGTERM end its process at once: this one, with the tests that come later."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "required: COMMAND", id="nothing"),
        pytest.param(["embed", "--input", "in"], "required: --output", id="no output"),
        pytest.param([*EMBED, "--piece-rows", "0"], "--piece-rows: invalid", id="no rows"),
        pytest.param([*EMBED, "--encoders", "x"], "--encoders: invalid", id="no number"),
        pytest.param([*EMBED, "--url-column", "a", "--text-column", "b"], "not allowed with", id="two columns"),
        pytest.param([*EMBED, "--dtype", "int8"], "invalid choice", id="dtype"),
        pytest.param(["retry"], "required: OUTPUT", id="nothing to retry"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is argparse that says so, with its own status."""
    with pytest.raises(SystemExit) as caught:
        main(arguments, {})

    assert 2 == caught.value.code
    assert message in capsys.readouterr().err


KEY = "s3://bucket/a?region=x&secret_key=a-secret"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        pytest.param(["embed", "--input", KEY, "--output", "out"], "--input", id="input"),
        pytest.param(["embed", "--input", "in", "--output", KEY], "--output", id="output"),
        pytest.param(["retry", KEY], "OUTPUT", id="output that is there"),
    ],
)
def test_key_in_a_uri_is_wrong_use(arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be in the plan and in messages; it is named, and not shown."""
    with pytest.raises(SystemExit) as caught:
        main(arguments, {})

    said = capsys.readouterr()
    assert 2 == caught.value.code
    assert f"argument {name}: s3://bucket/a: secret_key in its query" in said.err
    assert "a-secret" not in said.err + said.out


def test_cluster_that_is_away_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And no output is begun."""
    with kept_port() as port:
        address = f"127.0.0.1:{port}"
        status = main(["embed", "--input", "in", "--output", str(tmp_path / "out")], {"RAY_ADDRESS": address})

    assert 1 == status
    assert ("", f"RAY_ADDRESS: {address}: Connection refused\n") == capsys.readouterr()
    assert not (tmp_path / "out").exists()
