"""One checkout against another: which, in which order, and what counts as slower."""

import argparse
from pathlib import Path

import pytest

from bench.against import LEAST_RATIO, RATE, checks, figures
from bench.compare import IMAGES
from bench.lines import Line, with_ratios
from bench.trees import OTHER, THIS, Tree, add_against, in_turn, trees
from bench.workload import ROOT
from tests.bench.rows import served


def test_trees_take_turns(tmp_path: Path) -> None:
    """A B B A: what the machine does meanwhile meets both, and neither is always first."""
    a, b = trees(tmp_path)

    assert [THIS, Tree(OTHER, tmp_path)] == [a, b]
    assert [a, b, b, a] == list(in_turn((a, b), 2))


def test_without_another_checkout_there_is_one() -> None:
    """Nothing is compared that was not asked for."""
    assert (THIS,) == trees(None)


def test_trees_share_no_cache(tmp_path: Path) -> None:
    """What one commit has exported is not what the other starts with."""
    this, other = trees(tmp_path)

    assert this.settings["CLIP_CACHE_DIR"] != other.settings["CLIP_CACHE_DIR"]


def test_only_a_checkout_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a pod is refused before anything is measured."""
    parser = argparse.ArgumentParser()
    add_against(parser)

    assert parser.parse_args(["--against", str(ROOT)]).against == ROOT
    with pytest.raises(SystemExit):
        parser.parse_args(["--against", str(tmp_path)])
    assert "no checkout" in capsys.readouterr().err


def test_a_disturbed_round_does_not_decide() -> None:
    """A row's rate is the median over its rounds, its failures are those of all."""
    rounds = [served("texts", rate, kind=IMAGES, clients=4, failed=1) for rate in (20.0, 3.0, 21.0)]

    assert (20.0, 3.0) == (figures(rounds)[RATE], figures(rounds)["failed"])


def test_a_row_that_became_slower_is_named() -> None:
    """Each row has its own check, which a loss of more than a twentieth misses."""
    lines = with_ratios(
        [
            Line("same", THIS.label, {RATE: LEAST_RATIO * 100}),
            Line("same", OTHER, {RATE: 100.0}),
            Line("slower", THIS.label, {RATE: 94.0}),
            Line("slower", OTHER, {RATE: 100.0}),
            Line("new", THIS.label, {RATE: 94.0}),
        ]
    )

    assert [True, False, None] == [check.met for check in checks(lines)]
    assert checks(lines)[1].goal.startswith("slower")
