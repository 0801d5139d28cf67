"""docs/metrics.md is what the definitions say."""

from tools.metrics_page import PAGE, page


def test_page_is_what_the_definitions_say() -> None:
    """`make metrics-page` writes it anew."""
    assert page() == PAGE.read_text("utf-8")
