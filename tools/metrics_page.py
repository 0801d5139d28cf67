"""`make metrics-page`: writes docs/metrics.md from `core/metrics.py`, where names and meanings live."""

import sys
from pathlib import Path

from core.images.process import Exit
from core.metrics import METRICS, Metric

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

_BEGIN = """\
# Metrics

`GET /metrics` of a pod, for Prometheus: one page for all its worker processes, whichever of them answers. What the
others have counted is at most five seconds old; what a worker has counted stays when it ends, less those if it is
killed. Whoever reaches the pod can read it; it holds names of clients, and nothing of what they sent. A serverless
worker has no such page: the line `job` of its log has the time of each stage, of the item that was longest in it.

`make metrics-page` writes this page. Why it is done so is in [decision 31](decisions/0031-metrics.md), what it costs in
[performance.md](performance.md#what-metrics-cost).

| metric | type | labels | |
|---|---|---|---|
"""

_END = """\
## Labels

- `operation`: `image`, `images`, `text`, `texts`, `embeddings`; what is asked of another path is counted nowhere.
- `client`: a name of the settings, `default` for the common secret; empty for a request that is refused before it is
  known whose it is.
- `code`: `OK`, a code of [errors.md](errors.md), or `CLIENT_GONE` for what nobody waited for any more, since its client
  had closed the connection. A batch is `OK` when it is answered; its images and texts have codes of their own in
  `clip_items_total`. What is over a client's rate is not begun: it is in `clip_requests_total` and
  `clip_client_limited_items_total`.
- `modality`: `image`, `text`.
- `stage`: `download`, `decode`, `queue`, `forward`; an item is in those that it went through, so a vector from the
  cache is in neither `queue` nor `forward`, and what failed is in none. `queue` is all the waiting there is: for a
  place to download or decode in, and for the device.
- `kind` of bytes: `bodies` (of each what is between 64 KiB and a mebibyte), `large_bodies` (what is beyond),
  `sent_images`, `pixels`; of tokens: `text`, `padding`; of a device's memory: `used`, `total`.
- `reason` of an image process that has ended:

| reason | |
|---|---|
"""

# One line for each, as the page shows them.
_REASONS = {
    Exit.START: "it never became ready",
    Exit.TIME: "its image took more processor time than `MAX_DECODE_CPU_S`",
    Exit.CROWDED: "its image took long, as did too many others",
    Exit.UNWANTED: "its image took long, and nobody waited for it any more",
    Exit.FINISHED: "it was left alone with an image that took long, and is done: nothing is wrong",
    Exit.STUCK: "it did not read what it was told",
    Exit.GARBLED: "it said what none would say",
    Exit.KILLED: "by somebody else: nearly always the kernel, which takes image processes first when memory runs out",
    Exit.CRASH: "a decoder has crashed",
    Exit.FAULT: "it met what nobody had foreseen, its memory limit outside of a decode for one",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), "utf-8")
    print("wrote docs/metrics.md", file=sys.stderr)


def page() -> str:
    """The whole text."""
    rows = "".join(_row(metric) for metric in METRICS)
    reasons = "".join(f"| `{reason.value}` | {_REASONS[reason]} |\n" for reason in Exit)
    return f"{_BEGIN}{rows}\n{_END}{reasons}"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.meaning} |\n"


if __name__ == "__main__":
    main()
