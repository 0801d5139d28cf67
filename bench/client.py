"""What many images cost the client's own process: `make bench-client`, `python -m bench.client --items N`.

A pod whose engine answers at once, small pictures, and one client beside it in a process of its own: its memory after
the first thousands of results and at the end, which must be the same, and its images a second. `--against DIR` adds
`embed_images` of an older checkout. Writes bench/results/client.json.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Check
from bench.images import image_server
from bench.instant import instant_pod
from bench.lines import Findings, Line, at_most, find, lines_table, ratio_of, unless_failed
from bench.machine import about, commit
from bench.pod import end_with_pods
from bench.table import checklist
from bench.trees import THIS, Tree, add_against, trees
from bench.workload import RESULTS, picture
from tools.testbed.process import SECRET, environment

ITEMS = 200_000
# By then every batch that may wait has waited, and all code is loaded.
EARLY = 10_000
MOST_GROWTH = 1.05
_SIDE_PX = 64
_INSIDE = Path(__file__).resolve().parent / "inside"

RATE, CPU, EARLY_MIB, END_MIB, LARGEST_MIB, FAILED = (
    "images/s",
    "cpu ms",
    "MiB early",
    "MiB at end",
    "MiB largest",
    "failed",
)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to embed many images; `call` is its name in bench/inside/embed_alone.py."""

    what: str
    call: str


THREADS = Way("ClipClient.iter_images", "iterate")
ASYNCIO = Way("AsyncClipClient.iter_images", "iterate_in_a_loop")
LISTED = Way("ClipClient.embed_images, a list", "collect")
WAYS = (THREADS, ASYNCIO, LISTED)
# An older checkout may know nothing else.
_WAYS_OF_OTHERS = (LISTED,)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=ITEMS)
    add_against(parser)
    options = parser.parse_args()
    end_with_pods()
    compared = trees(options.against)
    commits = {tree.label: commit(tree.folder) for tree in compared}
    before = about({"items": options.items, "early": EARLY, "commits": commits})
    lines = measure(compared, options.items, min(EARLY, options.items // 2))
    findings = Findings(before, tuple(lines), checks(lines))
    print(f"{before['machine']['processor']}, {options.items:,} images, commits {commits}; of the client's process\n")
    print(lines_table(lines), "\n")
    print(checklist(findings.checks))
    findings.write(RESULTS / "client.json")


def measure(compared: Sequence[Tree], items: int, early: int) -> list[Line]:
    """One way after the other, each in a new process."""
    lines = []
    with image_server({"a.jpg": picture(_SIDE_PX, _SIDE_PX)}) as images, instant_pod(THIS) as pod:
        for tree in compared:
            for way in WAYS if tree is THIS else _WAYS_OF_OTHERS:
                arguments = [way.call, images.urls["a.jpg"], str(items), str(early)]
                lines.append(Line(way.what, tree.label, _figures(tree, pod.base_url, arguments, items)))
    return lines


def checks(lines: Sequence[Line]) -> tuple[Check, ...]:
    """Whoever iterates holds what is on its way, however many have come."""
    return tuple(_level(lines, way.what) for way in (THREADS, ASYNCIO))


def _level(lines: Sequence[Line], what: str) -> Check:
    growth = ratio_of(find(lines, what, END_MIB), find(lines, what, EARLY_MIB))
    check = at_most(f"{what}: memory at the end <= {MOST_GROWTH} times early", growth, MOST_GROWTH, "")
    return unless_failed(check, find(lines, what, FAILED))


def _figures(tree: Tree, base_url: str, arguments: Sequence[str], items: int) -> dict[str, float | None]:
    settings = {
        "PYTHONPATH": ":".join(map(str, (_INSIDE, tree.folder / "client" / "src", tree.folder))),
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "embed_alone", *arguments]
    done = subprocess.run(  # noqa: S603 - our own module
        command, cwd=tree.folder, env=environment(**settings), check=True, stdout=subprocess.PIPE, text=True
    )
    told = json.loads(done.stdout)
    return {
        RATE: told["items"] / told["elapsed_s"],
        CPU: told["cpu_s"] * 1000 / items,
        EARLY_MIB: told["early_mib"],
        END_MIB: told["end_mib"],
        LARGEST_MIB: told["largest_mib"],
        # A result that did not come at all is no success either.
        FAILED: float(told["failed"] + items - told["items"]),
    }


if __name__ == "__main__":
    main()
