"""Images and texts at once, on a full-size ViT-B/32, and one slow host beside quick ones: `make bench-mixed`.

Four clients send batches of 16 images without pause, beside none to sixteen who search by text. What both get is held
against the images alone, in the same run. `--against DIR` measures another checkout in alternation. Writes
bench/results/mixed.json.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count, product
from operator import add

from bench import slow_host
from bench.figures import Check, Percentiles
from bench.images import ImageServer, image_server
from bench.lines import Findings, Line, at_least, at_most, find, lines_table, unless_failed, with_ratios
from bench.load import Load, Outcome, drive
from bench.machine import about, commit
from bench.pod import Passes, cpu_s, end_with_pods, full_size_pod, worker_of
from bench.serving import image_batches, named_files
from bench.table import checklist
from bench.timing import new_process
from bench.trees import Tree, add_against, trees
from bench.work import Texts
from bench.workload import RESULTS, THUMBNAIL, pictures
from tools.testbed.process import SECRET, PodProcess

SIZES = (THUMBNAIL, "1080p")
TEXT_CLIENTS = (0, 1, 4, 16)
_IMAGE_CLIENTS = 4
_WARM_UP_S = 3.0
_LEAD_S, _TRAIL_S = 4.0, 1.0
# More than any row asks for, so that no two rows ask for the same.
_NUMBERS_PER_ROW = 100_000

IMAGES, SHARE, TEXTS, P50, P99 = "images/s", "of alone", "texts/s", "text p50 ms", "text p99 ms"
CORES, FAILED = "pod cores", "failed"
# What is left to the images, by the number of text clients beside them: texts are searches, images are the bulk.
LEAST_SHARES = {1: 0.85, 4: 0.5, 16: 1 / 3}
DEFAULT_IMAGE_PASS_MS = 300


@dataclass(frozen=True, slots=True)
class Mixed:
    """What was embedded in one row, one round or several. `pod_s` is processor time, `failed` counts requests."""

    images: float
    texts: float
    elapsed_s: float
    pod_s: float = 0.0
    failed: int = 0
    text_ms: Sequence[float] = field(default=(), repr=False)

    def __add__(self, other: "Mixed") -> "Mixed":
        return Mixed(
            self.images + other.images,
            self.texts + other.texts,
            self.elapsed_s + other.elapsed_s,
            self.pod_s + other.pod_s,
            self.failed + other.failed,
            (*self.text_ms, *other.text_ms),
        )

    def __sub__(self, before: "Mixed") -> "Mixed":
        """Between two moments of one pod."""
        return Mixed(
            self.images - before.images,
            self.texts - before.texts,
            self.elapsed_s - before.elapsed_s,
            self.pod_s - before.pod_s,
        )

    @property
    def images_per_s(self) -> float:
        return self.images / self.elapsed_s

    def figures(self, alone: "Mixed") -> dict[str, float | None]:
        """`alone`: the same images with no text client beside them."""
        of_texts = Percentiles.of(self.text_ms) if self.text_ms else None
        return {
            IMAGES: self.images_per_s,
            SHARE: self.images_per_s / alone.images_per_s if alone.images else None,
            TEXTS: self.texts / self.elapsed_s,
            P50: of_texts.p50 if of_texts else None,
            P99: of_texts.p99 if of_texts else None,
            # Less than in the row of images alone: other work had the processor, and the share means nothing.
            CORES: self.pod_s / self.elapsed_s,
            FAILED: float(self.failed),
        }


def main() -> None:
    options = _options()
    end_with_pods()
    compared = trees(options.against)
    commits = {tree.label: commit(tree.folder) for tree in compared}
    settings = {"CLIP_DTYPE": options.dtype, "MAX_IMAGE_PASS_MS": str(options.image_pass_ms)}
    before = about({**settings, "seconds": options.seconds, "rounds": options.rounds, "commits": commits})
    lines = _measure(compared, settings, options.rounds, options.seconds)
    slow = slow_host.measure(compared, options.rounds, options.seconds)
    all_checks = (*checks(lines, options.image_pass_ms), *slow_host.checks(slow))
    print(f"{before['machine']['processor']}, {options.dtype}, commits {commits}, {options.rounds} rounds\n")
    print(lines_table(lines), "\n")
    print(lines_table(slow), "\n")
    print(checklist(all_checks))
    Findings(before, (*lines, *slow), all_checks).write(RESULTS / "mixed.json")


def name_of(size: str, text_clients: int) -> str:
    """The name of a row."""
    return f"batches of 16, {size}, {text_clients:2} text clients"


def checks(lines: Sequence[Line], image_pass_ms: float) -> tuple[Check, ...]:
    """What is left to the images, and how long a text waits beside them: an image pass, and its own."""
    return tuple(check for size in SIZES for check in _checks(lines, size, image_pass_ms))


def _checks(lines: Sequence[Line], size: str, image_pass_ms: float) -> Iterator[Check]:
    for clients, least in LEAST_SHARES.items():
        what = name_of(size, clients)
        check = at_least(f"{what}: images >= {least:.2f} of alone", find(lines, what, SHARE), least)
        yield unless_failed(check, find(lines, what, FAILED))
    what = name_of(size, 1)
    most_ms = 2 * image_pass_ms
    check = at_most(f"{what}: p99 <= {most_ms:.0f} ms", find(lines, what, P99), most_ms, " ms")
    yield unless_failed(check, find(lines, what, FAILED))


def _measure(compared: Sequence[Tree], settings: Mapping[str, str], rounds: int, seconds: float) -> list[Line]:
    """The pods run side by side; the one that is not asked is idle."""
    rows = defaultdict[tuple[str, int, Tree], list[Mixed]](list)
    with ExitStack() as stack:
        images = stack.enter_context(image_server(named_files({size: pictures(size) for size in SIZES})))
        clients = [stack.enter_context(new_process()) for _ in range(2)]
        pods = {tree: stack.enter_context(full_size_pod(settings, tree)) for tree in compared}
        asking = {tree: Asking(pod, images, clients) for tree, pod in pods.items()}
        for size in SIZES:
            for tree in compared:
                asking[tree].row(size, max(TEXT_CLIENTS), _WARM_UP_S)
            for _ in range(rounds):
                for text_clients, tree in product(TEXT_CLIENTS, compared):
                    rows[size, text_clients, tree].append(asking[tree].row(size, text_clients, seconds))
                    print(".", end="", flush=True)
    print()
    totals = {key: reduce(add, of_rounds) for key, of_rounds in rows.items()}
    return with_ratios(
        [
            Line(name_of(size, clients), tree.label, total.figures(totals[size, 0, tree]))
            for (size, clients, tree), total in totals.items()
        ]
    )


class Asking:
    """The clients of one pod, in two processes: `image_clients` that send batches, and those with texts."""

    def __init__(
        self,
        pod: PodProcess,
        images: ImageServer,
        clients: Sequence[ProcessPoolExecutor],
        image_clients: int = _IMAGE_CLIENTS,
    ) -> None:
        self._base_url = pod.base_url
        self._worker_pid = worker_of(pod).pid
        self._images = images
        self._with_images, self._with_texts = clients
        self._image_clients = image_clients
        self._numbers = count(1, _NUMBERS_PER_ROW)

    def row(self, size: str, text_clients: int, seconds: float) -> Mixed:
        """Counted is what the pod has embedded in `seconds`, and not what was answered: answers come in lumps of 16.

        Both come long before that: what texts do to images shows when those that were decoded before are used up. The
        images come a while longer, and are never waited for beside texts, which may be for ever.
        """
        number = next(self._numbers)
        work = image_batches(size, self._image_clients).work(self._images)
        images = Load(self._base_url, work, self._image_clients, _LEAD_S + seconds + _TRAIL_S, number)
        running = self._with_images.submit(drive, images)
        # Those who search are there from the start, and asked how long they waited only when all is as it stays.
        self._search(text_clients, _LEAD_S, number).result()
        before = self._done()
        searching = self._search(text_clients, seconds, number + _NUMBERS_PER_ROW // 2)
        time.sleep(seconds)
        counted = self._done() - before
        searched, embedded = searching.result(), running.result()
        failed = searched.failed + embedded.failed
        return replace(counted, failed=failed, text_ms=tuple(searched.latencies_ms))

    def _search(self, clients: int, seconds: float, first_number: int) -> "Future[Outcome]":
        """Without clients it only takes its time."""
        load = Load(self._base_url, Texts(SECRET), clients, seconds, first_number)
        return self._with_texts.submit(drive, load) if clients else self._with_texts.submit(_wait, seconds)

    def _done(self) -> Mixed:
        """Up to now."""
        images, texts = (Passes.so_far(self._base_url, modality).items for modality in ("image", "text"))
        return Mixed(images, texts, elapsed_s=time.monotonic(), pod_s=cpu_s(self._worker_pid))


def _wait(seconds: float) -> Outcome:
    time.sleep(seconds)
    return Outcome([], {}, 0, 0, seconds, 0.0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two rounds of 5 s per row instead of three of 15 s")
    parser.add_argument("--dtype", choices=("auto", "float32"), default="auto", help="CLIP_DTYPE of the pod")
    parser.add_argument("--image-pass-ms", type=int, default=DEFAULT_IMAGE_PASS_MS, help="MAX_IMAGE_PASS_MS of the pod")
    add_against(parser)
    options = parser.parse_args()
    options.rounds, options.seconds = (2, 5.0) if options.quick else (3, 15.0)
    return options


if __name__ == "__main__":
    main()
