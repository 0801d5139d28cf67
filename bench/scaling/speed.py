"""How long one pod takes for what, from what was measured over HTTP and of its engine. Nothing here is tuned."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from bench.figures import Report
from core.batching.items import Modality

BATCH = 16
# That many clients keep a pod busy and are not refused.
_BUSY_CLIENTS = 64
_PASSES = {Modality.IMAGE: "graphs: images", Modality.TEXT: "graphs: texts of 16 tokens"}
_SHIPPED = "as shipped: "


@dataclass(frozen=True, slots=True)
class Rates:
    """Items a second over HTTP: of one client, and of so many that the pod is busy."""

    alone: float
    busy: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one pod.

    `request_s` and `item_s` are of its main process, whose threads share one processor: for a request of that modality,
    and, while its pass is prepared, for each of its items. `decode_s` is an image's download and decode where they have
    to share that processor, 0 where there are cores for them. `fetch_s` is what else a request waits for, on nobody's
    account, of one image and of a batch: lines, and such downloads and decodes. `pass_s` has the device's own seconds
    of a forward pass by its size; `streams` passes run at once.
    """

    request_s: Mapping[Modality, float]
    item_s: float
    decode_s: float
    fetch_s: Mapping[Modality, float]
    batch_fetch_s: float
    pass_s: Mapping[Modality, Mapping[int, float]]
    streams: int
    start_s: float

    def pass_seconds(self, modality: Modality, items: int) -> float:
        """Of the device; between the sizes that were measured, on the line between them."""
        known = self.pass_s[modality]
        sizes = sorted(known)
        place = bisect_left(sizes, items)
        if place == len(sizes):
            return known[sizes[-1]] * items / sizes[-1]
        high = sizes[place]
        if place == 0 or high == items:
            return known[high]
        low = sizes[place - 1]
        return known[low] + (known[high] - known[low]) * (items - low) / (high - low)

    def fetch_seconds(self, modality: Modality, items: int) -> float:
        """Of a request of so many items: between one image and a batch, on the line between them."""
        one_s = self.fetch_s[modality]
        if modality is Modality.TEXT or items == 1:
            return one_s
        return one_s + (self.batch_fetch_s - one_s) * (items - 1) / (BATCH - 1)


def speed_of(
    singles: Rates,
    batches: Rates,
    texts: Rates,
    passes: Mapping[Modality, Mapping[int, float]],
    *,
    streams: int,
    start_s: float,
    decode_share: float = 0.0,
) -> Speed:
    """Solve what was measured for what a request and an item cost.

    Busy with single images the pod takes `request + item` for each, busy with batches `request + 16 item`: two
    equations, two unknowns. `decode_share` of an item's is its decode. An item of a text costs what the rest of one of
    an image does. What one client alone waits for beyond all that and its pass is `fetch`.
    """
    image_item_s = max(0.0, (BATCH / batches.busy - 1 / singles.busy) / (BATCH - 1))
    decode_s = image_item_s * decode_share
    item_s = image_item_s - decode_s
    image_s, text_s = max(0.0, 1 / singles.busy - image_item_s), max(0.0, 1 / texts.busy - item_s)
    bare = Speed(
        {Modality.IMAGE: image_s, Modality.TEXT: text_s},
        item_s,
        decode_s,
        {Modality.IMAGE: 0.0, Modality.TEXT: 0.0},
        0.0,
        passes,
        streams,
        start_s,
    )

    def rest_s(modality: Modality, items: int, taken_s: float) -> float:
        decodes_s = items * decode_s if modality is Modality.IMAGE else 0.0
        known_s = bare.request_s[modality] + decodes_s + items * item_s + bare.pass_seconds(modality, items)
        return max(0.0, taken_s - known_s)

    return Speed(
        bare.request_s,
        item_s,
        decode_s,
        {
            Modality.IMAGE: rest_s(Modality.IMAGE, 1, 1 / singles.alone),
            Modality.TEXT: rest_s(Modality.TEXT, 1, 1 / texts.alone),
        },
        rest_s(Modality.IMAGE, BATCH, BATCH / batches.alone),
        passes,
        streams,
        start_s,
    )


def measured_on_a_gpu(report: Report) -> Speed:
    """Of `bench/results/gpu.json`: a pod as shipped, thumbnails of 512 px, texts of ten words.

    Raises `LookupError` for a row that is not there.
    """
    return speed_of(
        _rates(report, "single images, 512 px"),
        _rates(report, "batches of 16, 512 px"),
        _rates(report, "texts of ten words"),
        {modality: _pass_s(report, f"{name}, batch ") for modality, name in _PASSES.items()},
        streams=2,
        start_s=_value(report, "start until ready", None),
    )


def _rates(report: Report, what: str) -> Rates:
    return Rates(_value(report, what, 1), _value(report, what, _BUSY_CLIENTS))


def _value(report: Report, what: str, clients: int | None) -> float:
    row = report.find("http", _SHIPPED + what, clients=clients)
    if row is None:
        raise LookupError(f"not measured: {_SHIPPED}{what}, {clients} clients")
    return row.value


def _pass_s(report: Report, prefix: str) -> dict[int, float]:
    rows = [row for row in report.rows if row.section == "engine" and row.what.startswith(prefix)]
    if not rows:
        raise LookupError(f"not measured: {prefix}1, ...")
    sizes = {int(row.what.removeprefix(prefix)): row.value for row in rows}
    return {size: size / per_s for size, per_s in sizes.items()}
