"""Rows beside the naive way and the engine's ceiling of the same run."""

from collections.abc import Sequence
from dataclasses import replace

from bench.figures import Row

IMAGES, TEXTS = "images", "texts"
NAIVE, ENGINE, DECODE, HTTP, START, MEMORY = "naive", "engine", "decode", "http", "start", "memory"

# Texts of about ten words have 12 tokens, and the service does not pad them.
TEXT_CEILING = "texts of 12 tokens, batch 16"
NAIVE_TEXTS = "texts padded to 77, batch 16"
IMAGE_CEILINGS = ("images, batch 16", "images, batch 32")


def naive_images(size: str) -> str:
    """The name of the naive row of images of that size."""
    return f"images {size}, batch 16"


def compared(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Give every rate over HTTP, and of the engine, its ratios. What was not measured in this run stays None."""
    values = {(row.section, row.what): row.value for row in rows}
    return tuple(_compared(row, values) for row in rows)


def _compared(row: Row, values: dict[tuple[str, str], float]) -> Row:
    if row.kind is None or row.section == NAIVE:
        return row
    naive = values.get((NAIVE, _naive_of(row)))
    ceiling = _ceiling_of(row, values) if row.section == HTTP else None
    return replace(
        row,
        times_naive=row.value / naive if naive else None,
        share_of_ceiling=row.value / ceiling if ceiling else None,
    )


def _naive_of(row: Row) -> str:
    """The naive row of the same picture size; what has no size of its own is compared with 1080p."""
    if row.kind == TEXTS:
        return NAIVE_TEXTS
    size = next((size for size in ("720p", "12 MP") if size in row.what), "1080p")
    return naive_images(size)


def _ceiling_of(row: Row, values: dict[tuple[str, str], float]) -> float | None:
    if row.kind == TEXTS:
        return values.get((ENGINE, TEXT_CEILING))
    return max((values[ENGINE, name] for name in IMAGE_CEILINGS if (ENGINE, name) in values), default=None)
