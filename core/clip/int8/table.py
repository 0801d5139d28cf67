"""What int8 costs and gains, as the lines that baking prints."""

from core.clip.manifest import Int8Report, TowerInInt8

_MEGABYTE = 1e6


def int8_table(report: Int8Report) -> str:
    """Return a table of both towers, with errors relative to the spread, and what search makes of them."""
    heads = ("in int8", "error", "p99", "layers", "float32/s", "int8/s", "MB", "")
    lines = [
        f"int8 on {report.processor}: judged by {report.pictures} images and {report.texts} texts that it was not"
        f" calibrated on ({report.calibrated_on})",
        _line(heads),
        *(_line(_cells(what, tower)) for what, tower in report.towers.items()),
        f"a search finds the same best image for {report.top_1:.1%} of the texts, and {report.top_10:.1%} of the best"
        f" ten; fingerprint {report.fingerprint}",
    ]
    return "\n".join(lines)


def _cells(what: str, tower: TowerInInt8) -> tuple[str, ...]:
    return (
        what,
        f"{tower.error_mean:.2%}",
        f"{tower.error_p99:.2%}",
        f"{tower.layers - len(tower.left_in_float)} of {tower.layers}",
        f"{tower.float32_per_s:.1f}",
        f"{tower.int8_per_s:.1f}",
        f"{tower.float32_bytes / _MEGABYTE:.0f} to {tower.int8_bytes / _MEGABYTE:.0f}",
        "" if tower.accepted else "refused: stays as it was",
    )


def _line(cells: tuple[str, ...]) -> str:
    widths = (9, 8, 8, 10, 11, 9, 12, 0)
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
