"""Rows and checks as text for a terminal. One table; every figure has its unit in its column or its head."""

from collections.abc import Callable, Sequence

from bench.figures import Check, Row

# Head, width, and what of a row stands there.
_COLUMNS: tuple[tuple[str, int, Callable[[Row], str]], ...] = (
    ("section", -8, lambda row: row.section),
    ("what", -46, lambda row: row.what),
    ("clients", 8, lambda row: str(row.served.clients) if row.served else ""),
    ("value", 10, lambda row: _figure(row.value)),
    ("unit", -9, lambda row: row.unit),
    ("range", 17, lambda row: "" if row.low is None or row.high is None else f"{_figure(row.low)}-{_figure(row.high)}"),
    ("x naive", 8, lambda row: "" if row.times_naive is None else f"{row.times_naive:.2f}"),
    ("engine %", 9, lambda row: "" if row.share_of_ceiling is None else f"{row.share_of_ceiling:.0%}"),
    ("p50 ms", 9, lambda row: f"{row.served.latency_ms.p50:.1f}" if row.served else ""),
    ("p95 ms", 9, lambda row: f"{row.served.latency_ms.p95:.1f}" if row.served else ""),
    ("p99 ms", 9, lambda row: f"{row.served.latency_ms.p99:.1f}" if row.served else ""),
    ("batch", 6, lambda row: _mean(row.served.batch_size) if row.served else ""),
    ("queue ms", 9, lambda row: _mean(row.served.queue_ms) if row.served else ""),
    ("health p99 ms", 14, lambda row: f"{row.served.health_ms.p99:.1f}" if row.served else ""),
    ("pod cores", 10, lambda row: f"{row.served.pod_cores:.2f}" if row.served else ""),
    ("client cores", 13, lambda row: _beside(row)),
    ("other cores", 12, lambda row: "" if row.other_cores is None else f"{row.other_cores:.2f}"),
    ("GPU %", 6, lambda row: f"{row.served.card.busy_percent:.0f}" if row.served and row.served.card else ""),
    ("GPU W", 6, lambda row: f"{row.served.card.watts:.0f}" if row.served and row.served.card else ""),
    ("GPU MHz", 8, lambda row: _clock(row)),
    ("failed", 7, lambda row: str(row.served.failed) if row.served else ""),
)


def table(rows: Sequence[Row]) -> str:
    """The table, one line per row under a line of heads; columns that no row fills are left out."""
    columns = [column for column in _COLUMNS if any(column[2](row) for row in rows)]
    widths = [_wide_enough(width, [cell(row) for row in rows]) for _, width, cell in columns]
    lines = [[head for head, _, _ in columns], *([cell(row) for _, _, cell in columns] for row in rows)]
    return "\n".join(_line(list(zip(cells, widths, strict=True))) for cells in lines)


def checklist(checks: Sequence[Check]) -> str:
    """Goal, measured and met, one per line."""
    words = {True: "met", False: "NOT MET", None: "-"}
    return "\n".join(f"{words[check.met]:8} {check.goal:58} {check.measured}" for check in checks)


def _wide_enough(width: int, cells: Sequence[str]) -> int:
    """As wide as the longest; a negative width aligns left, as in printf."""
    longest = max(map(len, cells), default=0)
    return min(width, -longest) if width < 0 else max(width, longest)


def _clock(row: Row) -> str:
    card = row.served.card if row.served else None
    return "" if card is None or card.clock_mhz is None else f"{card.clock_mhz:.0f}"


def _line(cells: Sequence[tuple[str, int]]) -> str:
    parts = [f"{text:<{-width}} " if width < 0 else f"{text:>{width}} " for text, width in cells]
    return "".join(parts).rstrip()


def _beside(row: Row) -> str:
    """What the measuring itself used of the same machine: the clients and the image server."""
    return f"{row.served.client_cores + row.served.image_server_cores:.2f}" if row.served else ""


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.2f}"
